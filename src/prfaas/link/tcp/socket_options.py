"""TCP connections and their options; what the kernel lacks is left out."""

from __future__ import annotations

import contextlib
import socket
import sys


def tune(sock: socket.socket, *, dscp: int, congestion_control: str | None, dead_s: float) -> None:
    """Set what every connection of the KV link has."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _try(sock, socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(dead_s * 1000))
    if dscp:
        level, option = (
            (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)
            if sock.family == socket.AF_INET6
            else (socket.IPPROTO_IP, socket.IP_TOS)
        )
        _try(sock, level, option, dscp << 2)
    if congestion_control is not None:
        control(sock, congestion_control)


def control(sock: socket.socket, congestion_control: str) -> None:
    """Use this congestion control from now on, where the kernel has it."""
    _try(sock, socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion_control.encode())


_PACED_SEGMENT_BYTES = 8960
"""What jumbo frames of 9,000 bytes carry."""


def connect(host: str, port: int, *, timeout_s: float, paced: bool) -> socket.socket:
    """A TCP connection to the first of the host's addresses that answers. Raises OSError.

    ``paced``: the rate will be limited. The kernel sends at least two segments at a time; of the
    loopback interface's 64 KiB that would be a burst, so they are cut as on jumbo Ethernet.
    """
    failure: OSError | None = None
    for family, kind, protocol, _, where in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        if paced:
            _try(sock, socket.IPPROTO_TCP, socket.TCP_MAXSEG, _PACED_SEGMENT_BYTES)
        sock.settimeout(timeout_s)
        try:
            sock.connect(where)
        except OSError as error:
            sock.close()
            failure = error
        else:
            return sock
    raise failure or OSError(f"{host} has no address")


_SO_MAX_PACING_RATE = 47
_TCP_NOTSENT_LOWAT = 25
_UNPACED = 2**64 - 1


def pace(sock: socket.socket, rate_bytes_per_s: float | None) -> None:
    """Let the kernel spread the packets of this connection (None: no limit)."""
    rate = _UNPACED if rate_bytes_per_s is None else int(rate_bytes_per_s)
    _try(sock, socket.SOL_SOCKET, _SO_MAX_PACING_RATE, rate.to_bytes(8, sys.byteorder))


def limit_unsent(sock: socket.socket, count: int) -> None:
    """Keep at most about ``count`` bytes in the kernel that have not been on the wire: what is
    in there can be overtaken by nothing."""
    _try(sock, socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, count)


def _try(sock: socket.socket, level: int, option: int, value: int | bytes) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(level, option, value)
