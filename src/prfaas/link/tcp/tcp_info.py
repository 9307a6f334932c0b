"""The kernel's view of a TCP connection: ``struct tcp_info`` of linux/tcp.h."""

from __future__ import annotations

import socket
import struct

from prfaas.link.protocol.line_monitor import ConnectionSample

# 8 bytes of states and flags, 24 u32 (rto ... total_retrans), 4 u64 (pacing_rate ...
# bytes_received), 6 u32 (segs_out ... data_segs_out), 4 u64 (delivery_rate ... sndbuf_limited),
# 2 u32 (delivered, delivered_ce), 2 u64 (bytes_sent, bytes_retrans). Older kernels return less.
_LAYOUT = struct.Struct("=8x24I4Q6I4Q2I2Q")
_RTT, _CWND, _SND_MSS, _TOTAL_RETRANS = 15, 18, 2, 23
_SEGS_OUT, _NOTSENT, _MIN_RTT, _DELIVERY_RATE, _BYTES_SENT = 28, 30, 31, 34, 40
_UNKNOWN_MIN_RTT = 2**32 - 1


def sample(sock: socket.socket) -> ConnectionSample | None:
    """Ask the kernel; None once the socket is closed or where the kernel does not say."""
    try:
        raw = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAYOUT.size)
    except (OSError, AttributeError):
        return None
    fields = _LAYOUT.unpack(raw.ljust(_LAYOUT.size, b"\0"))
    min_rtt_us = fields[_MIN_RTT] if fields[_MIN_RTT] != _UNKNOWN_MIN_RTT else 0
    return ConnectionSample(
        rtt_s=fields[_RTT] / 1e6,
        min_rtt_s=min_rtt_us / 1e6,
        segments_sent=fields[_SEGS_OUT],
        retransmits=fields[_TOTAL_RETRANS],
        delivery_rate_bytes_per_s=float(fields[_DELIVERY_RATE]),
        unsent_bytes=fields[_NOTSENT],
        window_bytes=fields[_CWND] * fields[_SND_MSS],
        sent_bytes=fields[_BYTES_SENT],
    )
