"""A peer far away joins and sends while strangers nearer by knock at the KV link's port.

    python -m benchmarks.door OUT.json [--seconds 10] [--rtt-ms 100] [--rate 5000] [--begin-tls]
        [--one-port]

Sites are network namespaces with a line between them (`prfaas.testing.sites`; root). A stranger
opens a connection, says nothing, half of a TLS handshake, or HTTP, and another takes its place;
with ``--begin-tls`` all begin a handshake as a peer does, which costs the door most. With
``--one-port`` HTTP is served there as well: strangers who begin a handshake ask for that.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import json
import os
import selectors
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from aiohttp import web

from prfaas.core.addresses import parse_address
from prfaas.link.api import TransferKey, TransferOffer
from prfaas.link.tcp.config import PeerConfig, TcpLinkConfig
from prfaas.link.tcp.link import TcpLink
from prfaas.process.front_door import serving_strangers
from prfaas.process.given_connections import GivenConnections
from prfaas.testing.link_kit import MemorySink
from prfaas.testing.sites import Sites
from prfaas.testing.wan import WanProfile, unavailable
from prfaas.tls.authority import create_authority, issue
from prfaas.tls.files import TlsFiles
from prfaas.tls.live import LiveTls

_SAYS = (b"", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\n\r\n")
_KEPT = 800
_IN_FLIGHT = 4000
_SIZE = 1 << 20
_AT_ONCE = struct.pack("ii", 1, 0)
"""How a stranger closes (SO_LINGER): with a reset. Ports that wait after a close run out after
28,000 connections, and to find one among them takes a stranger all its time."""
_PROCESSES = 2
"""Of strangers: one alone makes some 3,000 connections a second."""


def files(certs: Path, name: str) -> TlsFiles:
    """What `issue` has written."""
    return TlsFiles(certs / "ca.pem", certs / f"{name}.pem", certs / f"{name}-key.pem")


def receive(certs: Path, listen: str, *, one_port: bool) -> None:
    """The door. Says at the end what it turned away, and its CPU time."""
    given = GivenConnections(parse_address(listen)) if one_port else None
    link = TcpLink(
        TcpLinkConfig(
            name="west",
            listen=listen,
            security=files(certs, "west"),
            accept_from=frozenset({"east"}),
        ),
        MemorySink(),
        others=given,
    )
    if given is not None:
        assert link.tls is not None
        threading.Thread(target=serve_http, args=(given, link.tls), daemon=True).start()
    print("ready", flush=True)
    sys.stdin.readline()
    times = os.times()
    turned_away = dict(link.counters().turned_away)
    said = {"turned_away": turned_away, "cpu_s": times.user + times.system, "kernel": kernel()}
    print(json.dumps(said), flush=True)
    link.close()


def serve_http(given: GivenConnections, tls: LiveTls) -> None:
    """As an agent does, with nothing behind it."""

    async def serve() -> None:
        door = serving_strangers(
            web.Application(), given, what="door", shutdown_timeout_s=0.1,
            tls=lambda: tls.http_server,
        )  # fmt: skip
        async with door:
            await asyncio.Event().wait()

    asyncio.run(serve())


def kernel() -> dict[str, int]:
    """What this namespace's kernel counted that has to do with doors."""
    lines = Path("/proc/net/netstat").read_text().splitlines()
    found: dict[str, int] = {}
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        found |= dict(zip(names.split()[1:], map(int, values.split()[1:]), strict=True))
    wanted = ("ListenOverflows", "ListenDrops", "TCPReqQFullDrop", "TCPTimeouts")
    return {name: found.get(name, 0) for name in wanted}


def first_flight() -> bytes:
    """What a TLS client says first."""
    heard, said = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(heard, said, server_hostname="west").do_handshake()
    return said.read()


def knock(address: str, rate: float, seconds: float, *, begins_tls: bool) -> None:
    """Says how many connections were made."""
    says = (first_flight(),) if begins_tls else _SAYS
    host, port = parse_address(address)
    selector = selectors.EpollSelector()
    kept: collections.deque[socket.socket] = collections.deque()
    begun = made = 0
    start = time.monotonic()
    while (now := time.monotonic()) < start + seconds:
        due = int((now - start) * rate) - begun
        room = _IN_FLIGHT - len(selector.get_map() or ())
        for _ in range(max(0, min(due, room, 200))):
            sock = socket.socket()
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            sock.connect_ex((host, port))
            selector.register(sock, selectors.EVENT_WRITE)
            begun += 1
        for key, _ in selector.select(timeout=0.001):
            sock = key.fileobj  # type: ignore[assignment]
            selector.unregister(sock)
            try:
                sock.send(says[made % len(says)])
            except OSError:
                sock.close()
                continue
            made += 1
            kept.append(sock)
            if len(kept) > _KEPT:
                kept.popleft().close()
    print(json.dumps({"made": made, "per_s": made / seconds}), flush=True)


def join(certs: Path, address: str, seconds: float) -> None:
    """A peer that comes anew again and again, and sends a megabyte. Says how long each took."""
    took: list[float] = []
    lost = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        begun, over, said = time.monotonic(), threading.Event(), list[str]()
        peers = {"west": PeerConfig(address=address, connections=1)}
        link = TcpLink(
            TcpLinkConfig(name="east", security=files(certs, "east"), peers=peers), MemorySink()
        )
        offer = TransferOffer(TransferKey(f"t{time.time_ns()}", 0, 1), "l", 0, 256, _SIZE, 30.0)

        def ended(outcome: str, said: list[str] = said, over: threading.Event = over) -> None:
            said.append(outcome)
            over.set()

        sending = link.send(
            "west", offer, on_complete=lambda done=ended: done("complete"), on_failed=ended
        )
        sending.add(0, memoryview(bytes(_SIZE)), lambda: None)
        over.wait(40)
        link.close()
        if said == ["complete"]:
            took.append(time.monotonic() - begun)
        else:
            lost += 1
    print(json.dumps({"seconds": took, "lost": lost, "kernel": kernel()}), flush=True)


def measure(
    seconds: float,
    rtt_s: float,
    rate: float,
    *,
    knocking: bool,
    begins_tls: bool,
    one_port: bool,
) -> dict[str, Any]:
    """One run, with strangers or without."""
    line = WanProfile(125e6, rtt_s)
    with (
        tempfile.TemporaryDirectory() as run,
        Sites({"east": ["e"], "west": ["w", "x"]}, {("east", "west"): line}) as sites,
    ):
        certs = Path(run)
        create_authority(certs)
        for name in ("east", "west"):
            issue(certs, name)
        address = f"{sites.address('w')}:7400"

        def start(machine: str, *role: str) -> subprocess.Popen[str]:
            return sites.popen(
                machine, [sys.executable, "-m", "benchmarks.door", *role],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip

        door = start("w", "receive", run, address, "one port" if one_port else "")
        assert door.stdout is not None
        door.stdout.readline()
        each = str(rate / _PROCESSES)
        strangers = [
            start("x", "knock", address, each, str(seconds + 2), "tls" if begins_tls else "")
            for _ in range(_PROCESSES if knocking else 0)
        ]
        if strangers:
            time.sleep(1.0)  # They are at it before the peer comes.
        peer = start("e", "join", run, address, str(seconds))
        joined = json.loads(peer.communicate(timeout=seconds + 90)[0])
        knocked = [json.loads(s.communicate(timeout=60)[0]) for s in strangers]
        seen = json.loads(door.communicate("\n", timeout=60)[0])
    took = sorted(joined["seconds"])
    return {
        "made": sum(one["made"] for one in knocked),
        "per_s": sum(one["per_s"] for one in knocked),
        "joined": len(took),
        "lost": joined["lost"],
        "kernel_of_peer": joined["kernel"],
        "median_s": took[len(took) // 2] if took else None,
        "longest_s": took[-1] if took else None,
        **seen,
    }


def main() -> None:
    """See the module."""
    if sys.argv[1:2] == ["receive"]:
        receive(Path(sys.argv[2]), sys.argv[3], one_port=sys.argv[4] != "")
        return
    if sys.argv[1:2] == ["knock"]:
        address, rate, seconds, says = sys.argv[2:]
        knock(address, float(rate), float(seconds), begins_tls=says == "tls")
        return
    if sys.argv[1:2] == ["join"]:
        join(Path(sys.argv[2]), sys.argv[3], float(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rtt-ms", type=float, default=100.0)
    parser.add_argument("--rate", type=float, default=5000.0)
    parser.add_argument("--begin-tls", action="store_true")
    parser.add_argument("--one-port", action="store_true")
    given = parser.parse_args()
    why = unavailable()
    if why is not None:
        sys.exit(f"no line can be emulated here: {why}")
    found = {
        what: measure(
            given.seconds,
            given.rtt_ms / 1000,
            given.rate,
            knocking=what == "strangers",
            begins_tls=given.begin_tls,
            one_port=given.one_port,
        )
        for what in ("alone", "strangers")
    }
    found["load"] = list(os.getloadavg())  # type: ignore[assignment]
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(found, indent=1))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
