"""Opens one connection to a peer: TCP, TLS, names on both sides."""

from __future__ import annotations

import socket
import ssl
import time
from dataclasses import dataclass
from typing import Protocol

from prfaas.core.addresses import parse_address
from prfaas.core.errors import LinkError, PeerError
from prfaas.link.protocol.congestion_choice import FINDS_THE_RATE
from prfaas.link.protocol.frames import (
    FrameReader,
    Hello,
    Kind,
    Reason,
    Welcome,
    control,
    decode,
)
from prfaas.link.tcp.channel import Carrier, Channel
from prfaas.link.tcp.config import LEAST_CHUNK_BYTES, PeerConfig, TcpLinkConfig
from prfaas.link.tcp.socket_options import connect, tune

_CONNECT_S = 3.0
"""A connect without an answer is begun anew: the kernel itself asks again after 1, 3, 7 and 15 s
only, and a line that is back should be noticed sooner."""


class ClientTls(Protocol):
    """What whoever dials needs of `LiveTls`."""

    @property
    def client(self) -> ssl.SSLContext: ...

    def check_peer(self, sock: ssl.SSLSocket, agent: str) -> None: ...


@dataclass(frozen=True)
class Dialled:
    """A connection that both sides have agreed to; ``number`` is its in our session."""

    channel: Carrier
    welcome: Welcome
    number: int


def dial(config: TcpLinkConfig, tls: ClientTls | None, peer: PeerConfig, hello: Hello) -> Dialled:
    """Connect and introduce ourselves. Raises LinkError (the line) or PeerError (who is there);
    either says what to do."""
    sock = reach(config, peer, hello.target)
    return introduce(sock, tls, hello, peer.address, timeout_s=config.handshake_timeout_s)


def reach(config: TcpLinkConfig, peer: PeerConfig, name: str) -> socket.socket:
    """A connection to whoever is there. Raises LinkError."""
    host, port = parse_address(peer.address)
    paced = peer.rate_bytes_per_s is not None or peer.leave_to_others > 0
    timeout_s = min(config.handshake_timeout_s, _CONNECT_S)
    try:
        sock = connect(host, port, timeout_s=timeout_s, paced=paced)
    except OSError as error:
        raise LinkError(f"cannot reach {name!r} at {peer.address}: {error}") from error
    tune(
        sock,
        dscp=config.dscp,
        congestion_control=config.congestion_control or FINDS_THE_RATE,
        dead_s=3 * config.keepalive_s,
    )
    return sock


def introduce(
    sock: socket.socket, tls: ClientTls | None, hello: Hello, address: str, *, timeout_s: float
) -> Dialled:
    """Say who we are and hear who is there, within about the time. Raises LinkError or PeerError;
    the connection is then closed."""
    until = time.monotonic() + timeout_s
    try:
        sock.settimeout(timeout_s)
        if tls is not None:
            wrapped = sock = tls.client.wrap_socket(sock)
            tls.check_peer(wrapped, hello.target)
        sock.sendall(control(Kind.HELLO, hello))
        welcome = _welcome(sock, until)
        _check(welcome, hello.target, address)
    except ssl.SSLError as error:
        sock.close()
        raise PeerError(_explain(error, hello.target, address)) from error
    except OSError as error:
        sock.close()
        raise LinkError(
            f"{hello.target!r} at {address} closed the connection before it said who it is "
            f"({error}); its log has the reason"
        ) from error
    except BaseException:
        sock.close()
        raise
    return Dialled(Channel(sock), welcome, hello.connection)


def _welcome(sock: socket.socket, until: float) -> Welcome:
    reader = FrameReader(max_chunk_bytes=1)
    while True:
        sock.settimeout(max(until - time.monotonic(), 0.001))
        count = sock.recv_into(reader.get_buffer())
        if count == 0:
            raise ConnectionResetError("closed during the introduction")
        frame = reader.received(count)
        if frame is None:
            continue
        if frame.header.kind is Kind.REJECT:
            raise PeerError(f"rejected: {decode(frame.body, Reason).reason}")
        if frame.header.kind is not Kind.WELCOME:
            raise PeerError(f"answered a HELLO with {frame.header.kind.name}")
        return decode(frame.body, Welcome)


def _check(welcome: Welcome, name: str, address: str) -> None:
    if welcome.name != name:
        raise PeerError(f"{address} is agent {welcome.name!r}, not {name!r}")
    if welcome.max_chunk_bytes < LEAST_CHUNK_BYTES:
        raise PeerError(f"{name!r} takes chunks of {welcome.max_chunk_bytes} bytes only")


def _explain(error: ssl.SSLError, name: str, address: str) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate of {name!r} at {address} is not valid: {error.verify_message}"
    if "alert" in str(error):
        return f"{name!r} at {address} refused our certificate: {error.reason or error}"
    return (
        f"no TLS with {name!r} at {address} ({error.reason or error}); "
        "is it configured for plaintext?"
    )
