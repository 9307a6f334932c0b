"""Every byte that leaves or enters a machine: ``python -m prfaas.testing.capture FILE`` writes what
all TCP connections of this network namespace carry, but for loopback, until it is ended. As root.

The bytes of each direction of a connection are kept together, so that nothing is missed for lying
across two packets.
"""

from __future__ import annotations

import signal
import socket
import sys
from pathlib import Path

_EVERY_PROTOCOL = 0x0003
_IPV4 = b"\x08\x00"
_TCP = 6


class Capture:
    """What was seen, by connection and direction."""

    def __init__(self) -> None:
        self.flows: dict[bytes, bytearray] = {}

    def take(self, frame: bytes) -> None:
        """An Ethernet frame."""
        if frame[12:14] != _IPV4 or frame[23] != _TCP:
            self.flows.setdefault(b"other", bytearray()).extend(frame)
            return
        header = 14 + 4 * (frame[14] & 0x0F)
        end = 14 + int.from_bytes(frame[16:18], "big") or len(frame)
        payload = header + 4 * (frame[header + 12] >> 4)
        flow = frame[26:34] + frame[header : header + 4]
        self.flows.setdefault(flow, bytearray()).extend(frame[payload:end])


def main() -> None:
    """See the module."""
    file, capture = Path(sys.argv[1]), Capture()
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_EVERY_PROTOCOL)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024 * 1024)
        sock.settimeout(0.1)
        print("ready", flush=True)
        while not ended:
            try:
                frame, where = sock.recvfrom(256 * 1024)
            except TimeoutError:
                continue
            if where[0] != "lo":
                capture.take(frame)
    file.write_bytes(b"\0\0between flows\0\0".join(map(bytes, capture.flows.values())))


if __name__ == "__main__":
    main()
