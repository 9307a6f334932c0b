"""What it costs that an agent carries a gateway's connections to engines.

``python -m benchmarks.carry [OUT.json]`` starts a real agent with TLS and an HTTP server that
stands for its engine, both as processes, and asks the server directly (plaintext, as an engine
beside the gateway would be) and through the agent, in turns. Every event of a stream says when it
was sent, on the clock that both share.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from aiohttp import web

from prfaas.core.deployment import load_deployment
from prfaas.gateway.http_answer import Answer, Timeouts
from prfaas.gateway.http_client import HttpClient
from prfaas.launch.addresses import free_address
from prfaas.tls.agents import agent_contexts
from prfaas.tls.authority import create_authority, issue
from prfaas.tls.context import PeerContext

REQUESTS, ROUNDS = 500, 6
STREAMS, EVENTS, EVERY_S = 16, 200, 0.02
_TIMEOUTS = Timeouts(60.0)


async def serve(address: str) -> None:
    """The server that stands for an engine."""

    async def short(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(EVENTS):
            told = f"data: {time.monotonic_ns()}" + " " * 180
            await response.write(told.encode() + b"\n\n")
            await asyncio.sleep(EVERY_S)
        return response

    app = web.Application()
    app.router.add_post("/short", short)
    app.router.add_post("/stream", stream)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    host, port = address.split(":")
    await web.TCPSite(runner, host, int(port)).start()
    await asyncio.Event().wait()


def cpu_s(pid: int) -> float:
    """Of a process, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Way:
    """To the server, directly or through an agent."""

    def __init__(self, url: str, http: HttpClient, through: PeerContext | None) -> None:
        self._url, self._http, self._through = url, http, through

    async def short(self) -> float:
        """Seconds of one short request."""
        began = time.perf_counter()
        async with await self._ask("/short", b"x" * 2000) as answer:
            await answer.read()
        return time.perf_counter() - began

    async def stream(self) -> list[float]:
        """How late each event of a stream was, in seconds."""
        late = []
        async with await self._ask("/stream", b"{}") as answer:
            async for line in answer.lines(1 << 16):
                if line.startswith(b"data: "):
                    late.append((time.monotonic_ns() - int(line[6:].split()[0])) / 1e9)
        return late

    async def _ask(self, path: str, body: bytes) -> Answer:
        return await self._http.request(
            "POST", self._url, path, data=body, timeouts=_TIMEOUTS, tls=self._through
        )


def quantiles(seconds: list[float]) -> dict[str, float]:
    """In milliseconds."""
    p50, p99 = np.percentile(seconds, [50, 99]) * 1e3
    return {"p50_ms": round(float(p50), 3), "p99_ms": round(float(p99), 3)}


async def measure(ways: dict[str, Way], agent: int) -> dict[str, Any]:
    """Both kinds of request, both ways, in turns."""
    for way in ways.values():
        await asyncio.gather(*(way.short() for _ in range(STREAMS)))
    short: dict[str, list[float]] = {name: [] for name in ways}
    late: dict[str, list[float]] = {name: [] for name in ways}
    spent = {"request": 0.0, "event": 0.0}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            before = cpu_s(agent)
            short[name] += [await way.short() for _ in range(REQUESTS)]
            if name == "carried":
                spent["request"] += cpu_s(agent) - before
            before = cpu_s(agent)
            for events in await asyncio.gather(*(way.stream() for _ in range(STREAMS))):
                late[name] += events
            if name == "carried":
                spent["event"] += cpu_s(agent) - before
    idle = cpu_s(agent)
    await asyncio.sleep(2.0)
    idle_per_s = (cpu_s(agent) - idle) / 2.0
    events_s = ROUNDS * EVENTS * EVERY_S
    return {
        "request": {name: quantiles(found) for name, found in short.items()},
        "event": {name: quantiles(found) for name, found in late.items()},
        "agent_cpu_us_per_request": round(spent["request"] / (ROUNDS * REQUESTS) * 1e6, 1),
        "agent_cpu_us_per_event": round(
            (spent["event"] - idle_per_s * events_s) / (ROUNDS * STREAMS * EVENTS) * 1e6, 1
        ),
        "agent_idle_cpu_share": round(idle_per_s, 4),
    }


def write_deployment(home: Path, engine: str) -> Path:
    """Of one machine."""
    certs = home / "certs"
    create_authority(certs)
    for name in ("a", "gateway"):
        issue(certs, name)

    def tls(name: str) -> dict[str, str]:
        own = {"cert": f"{certs}/{name}.pem", "key": f"{certs}/{name}-key.pem"}
        return {"ca": f"{certs}/ca.pem", **own}

    place = {"name": "a", "admin": free_address(), "socket": f"{home}/s", "arena": "8 MiB"}
    cluster = {
        "name": "west",
        "kind": "pd",
        "engines": [
            {"name": "d", "role": "decode", "url": f"http://{engine}", "kv_events": "ipc:///x"}
        ],
        "agent": {**place, "slot": "64 KiB", "tls": tls("a")},
    }
    file = home / "deployment.json"
    file.write_text(json.dumps({"clusters": [cluster], "gateway": {"agent_tls": tls("gateway")}}))
    return file


async def run(file: Path, agent: int) -> dict[str, Any]:
    """Wait for both, measure."""
    deployment = load_deployment(file)
    http = HttpClient()
    url = deployment.engines[0].url or ""
    ways = {
        "direct": Way(url, http, None),
        "carried": Way(url, http, agent_contexts(deployment)["a"]),
    }
    async with asyncio.timeout(60):
        while True:
            try:
                await ways["carried"].short()
                break
            except OSError:
                await asyncio.sleep(0.1)
    try:
        return await measure(ways, agent)
    finally:
        await http.close()


def main() -> None:
    """See the module."""
    if sys.argv[1:2] == ["serve"]:
        uvloop.run(serve(sys.argv[2]))
    out = Path(sys.argv[1] if sys.argv[1:] else "build/carry.json")
    with tempfile.TemporaryDirectory(prefix="pf") as home:
        engine = free_address()
        file = write_deployment(Path(home), engine)
        python = [sys.executable, "-m"]
        agent = [*python, "prfaas.cli.main", "agent", str(file), "--name", "a"]
        started = [
            subprocess.Popen([*python, "benchmarks.carry", "serve", engine]),
            subprocess.Popen([*agent, "--log-level", "error"]),
        ]
        try:
            found = uvloop.run(run(file, started[1].pid))
        finally:
            for process in started:
                process.terminate()
                process.wait()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=1) + "\n")
    print(out.read_text())


if __name__ == "__main__":
    main()
