"""How evenly a rate limit is kept, seen from the packets that leave and that arrive.

    python -m benchmarks.transfer.pacing                    200 Mbit/s on two lines, TLS off

The kernel's own times are used (a packet socket on each end's device), so nothing that keeps a
process of ours waiting shows as a burst; what arrives less evenly than it left is the emulated
line's doing. Says how much payload there was in the fullest and the emptiest second, and in the
fullest 10 ms, as shares of the rate; medians of 3.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.transfer.contenders import Ends, following
from benchmarks.transfer.lines import ROWS

from prfaas.core.addresses import parse_address
from prfaas.testing.wan import Wan

HERE = Path(__file__).parent
RATE_BYTES_PER_S, SECONDS = 25e6, 5.0
_ETH_P_ALL, _PACKET_HOST, _PACKET_OUTGOING, _SO_TIMESTAMPNS = 0x0003, 0, 4, 35
_SETTLED_S = 0.5

Packet = tuple[float, int]


def capture(device: str, port: int, kind: int) -> None:
    """Print (seconds, payload bytes) of packets to ``port`` as JSON, a second after the last."""
    sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
    sniffer.bind((device, _ETH_P_ALL))
    sniffer.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    sniffer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 20)
    sniffer.settimeout(0.2)
    print("capturing", flush=True)
    packets: list[Packet] = []
    last_at = math.inf
    while time.time() < last_at + 1.0:
        with contextlib.suppress(TimeoutError):
            raw, extra, _, source = sniffer.recvmsg(80, 64)
            payload = _payload(raw, port)
            if payload and source[2] == kind:
                seconds, nanoseconds = struct.unpack("qq", extra[0][2][:16])
                last_at = seconds + nanoseconds * 1e-9
                packets.append((last_at, payload))
    print(json.dumps(packets), flush=True)


def _payload(raw: bytes, port: int) -> int:
    """TCP payload bytes of an IPv4 packet to ``port``."""
    header = (raw[0] & 15) * 4
    if raw[0] >> 4 != 4 or raw[9] != socket.IPPROTO_TCP or len(raw) < header + 20:
        return 0
    to_port, offset = struct.unpack_from("!H", raw, header + 2)[0], raw[header + 12] >> 4
    length = struct.unpack_from("!H", raw, 2)[0]
    return int(length - header - offset * 4) if to_port == port else 0


def fullest(packets: Sequence[Packet], span_s: float) -> float:
    """The most bytes in any window of ``span_s``."""
    best = inside = first = 0
    for at, length in packets:
        inside += length
        while at - packets[first][0] >= span_s:
            inside -= packets[first][1]
            first += 1
        best = max(best, inside)
    return best


def emptiest_second(packets: Sequence[Packet]) -> float:
    """The fewest bytes in any second, in steps of 50 ms."""
    start, end = packets[0][0], packets[-1][0]
    steps = [start + n * 0.05 for n in range(int((end - start - 1.0) / 0.05))]
    return min(sum(length for at, length in packets if s <= at < s + 1.0) for s in steps)


def measure(line: str, connections: int | None, rate: float) -> dict[str, float]:
    """One transfer over the line: shares of the rate, by where they were seen."""
    row = next(row for row in ROWS if row.name == line)
    with contextlib.nullcontext(None) if row.profile is None else Wan(row.profile) as wan:
        devices = ("lo", "lo") if wan is None else wan.devices
        left, arrived = _watched_transfer(Ends(wan), devices, connections, rate)
    return {
        "arrived_in_emptiest_second": emptiest_second(arrived) / rate,
        "arrived_in_fullest_second": fullest(arrived, 1.0) / rate,
        "arrived_in_fullest_10_ms": fullest(arrived, 0.01) / (rate * 0.01),
        "left_in_fullest_10_ms": fullest(left, 0.01) / (rate * 0.01),
    }


def _watched_transfer(
    ends: Ends, devices: tuple[str, str], connections: int | None, rate: float
) -> list[list[Packet]]:
    """The packets at the sender's and at the receiver's device, without start and end."""
    ours = [sys.executable, str(HERE / "ours.py")]
    options: dict[str, object] = {"certs": None, "rate": rate, "connections": connections}
    receiver = ends.start(1, [*ours, "receive", json.dumps({**options, "host": ends.hosts[1]})])
    watchers: list[subprocess.Popen[str]] = []
    try:
        address = str(following(receiver, "listening")["address"])
        for side, kind in ((0, _PACKET_OUTGOING), (1, _PACKET_HOST)):
            where = [devices[side], str(parse_address(address).port), str(kind)]
            watch = [sys.executable, "-m", "benchmarks.transfer.pacing", "--capture", *where]
            watchers.append(ends.start(side, watch))
            stdout = watchers[-1].stdout
            assert stdout is not None
            stdout.readline()
        more = {"address": address, "repeats": 0, "warm_bytes": int(rate * SECONDS)}
        sender = ends.start(0, [*ours, "send", json.dumps({**options, **more})])
        following(sender, "done")
        sender.communicate()
        seen = [json.loads(watcher.communicate(timeout=30)[0]) for watcher in watchers]
        return [_settled(packets) for packets in seen]
    finally:
        for process in (receiver, *watchers):
            process.kill()
            process.communicate()


def _settled(packets: list[Packet]) -> list[Packet]:
    begin, end = packets[0][0] + _SETTLED_S, packets[-1][0] - 0.05
    return [packet for packet in packets if begin <= packet[0] <= end]


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.transfer.pacing")
    parser.add_argument("--capture", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--lines", default="loopback,wan-1g-2ms")
    parser.add_argument("--connections", type=int)
    args = parser.parse_args()
    if args.capture:
        device, port, kind = args.capture
        capture(device, int(port), int(kind))
        return 0
    for line in args.lines.split(","):
        runs = [measure(line, args.connections, RATE_BYTES_PER_S) for _ in range(3)]
        medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        shown = ", ".join(f"{name} {share:.2f}" for name, share in medians.items())
        print(f"{line}: {shown}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
