"""A thousand engines and their agents in one process, as far as an idle gateway sees them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import time
from multiprocessing.connection import Connection

import msgspec
import uvloop
import zmq
import zmq.asyncio
from aiohttp import web
from benchmarks.gateway.fleet_decisions import layout

from prfaas.core.cache_news import Whole
from prfaas.core.gateway_sessions import Renewal
from prfaas.link.api import LinkState, LinkStates
from prfaas.pool.sessions import Sessions

ENGINES_PER_MACHINE = 8
_HEARTBEAT_S = 2.0
_MODELS = b'{"object":"list","data":[{"id":"mock","object":"model","parent":null}]}'
_END = (-1).to_bytes(8, "big", signed=True)


class _Engine(asyncio.Protocol):
    """vLLM's server as health checks and `/v1/models` see it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        body = _MODELS if data.startswith(b"GET /v1/models") else b""
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self._transport.write(head % len(body) + body)  # type: ignore[attr-defined]


class _Agent:
    """`/engines`, gateways' sessions, and the streams of link states and of what is cached, which
    say nothing new."""

    def __init__(self, engines: list[str], peers: list[str], block_tokens: int) -> None:
        ranks = [{"engine": engine, "pid": 1, "layout": layout(block_tokens)} for engine in engines]
        self._ranks = msgspec.json.encode({"engines": ranks})
        states = [LinkState(p, 0.0, 1, 0.0, 25e6, 0.0, 0.03, 0.03, 0, 0, 0.0, 0, 0) for p in peers]
        self._links = msgspec.json.encode(LinkStates(states)) + b"\n"
        self._sessions = Sessions()

    async def start(self) -> int:
        app = web.Application()
        app.router.add_get("/engines", self._engines)
        app.router.add_get("/links/events", self._events)
        app.router.add_get("/cache/events", self._cache_events)
        app.router.add_put("/gateways/{id}", self._renew)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port: int = runner.addresses[0][1]
        return port

    async def _engines(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._ranks, content_type="application/json")

    async def _renew(self, request: web.Request) -> web.Response:
        renewal = msgspec.json.decode(await request.read(), type=Renewal)
        session, now = request.match_info["id"], time.monotonic()
        self._sessions.renew(session, renewal, now=now)
        standing = self._sessions.standing(session, now=now)
        return web.Response(body=msgspec.json.encode(standing), content_type="application/json")

    async def _cache_events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(msgspec.json.encode(Whole()) + b"\n")
        await asyncio.Event().wait()
        return response

    async def _events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):  # The gateway has ended.
            while True:
                await response.write(self._links)
                await asyncio.sleep(_HEARTBEAT_S)
        return response


class _Publisher:
    """vLLM's publisher of KV events and its replays, one for the engines of a machine."""

    def __init__(self, context: zmq.asyncio.Context) -> None:
        self._pub, self._router = context.socket(zmq.PUB), context.socket(zmq.ROUTER)
        self._pub.setsockopt(zmq.SNDHWM, 0)
        self.events = f"tcp://127.0.0.1:{self._pub.bind_to_random_port('tcp://127.0.0.1')}"
        self.replay = f"tcp://127.0.0.1:{self._router.bind_to_random_port('tcp://127.0.0.1')}"
        self._number = 0

    async def serve_replays(self) -> None:
        while True:
            client, _, _start = await self._router.recv_multipart()
            await self._router.send_multipart([client, b"", b"", _END, b""])

    async def publish(self, payload: bytes) -> None:
        await self._pub.send_multipart([b"kv", self._number.to_bytes(8, "big"), payload])
        self._number += 1


async def _serve(pipe: Connection, clusters: int, engines: int, block_tokens: int) -> None:
    loop = asyncio.get_running_loop()
    context = zmq.asyncio.Context()
    names = [f"c{number}" for number in range(clusters)]
    publishers: list[_Publisher] = []
    tasks: list[asyncio.Task[None]] = []
    described = []
    machines = {
        name: [f"{name}-m{n}" for n in range(-(-engines // clusters // ENGINES_PER_MACHINE))]
        for name in names
    }
    pd = names[clusters // 2 :]
    servers = []
    number = 0
    for name in names:
        prfaas = name not in pd
        placed: list[dict[str, object]] = []
        left = engines // clusters
        for machine in machines[name]:
            mine: list[dict[str, str]] = []
            publisher = _Publisher(context)
            if left >= ENGINES_PER_MACHINE:  # Whose events as many engines have.
                publishers.append(publisher)
            tasks.append(asyncio.ensure_future(publisher.serve_replays()))
            for _ in range(min(ENGINES_PER_MACHINE, left)):
                server = await loop.create_server(_Engine, "127.0.0.1", 0)
                servers.append(server)
                port = server.sockets[0].getsockname()[1]
                mine.append(
                    {
                        "name": f"e{number}",
                        "role": "prefill" if prfaas or number % 2 else "decode",
                        "url": f"http://127.0.0.1:{port}",
                        "kv_events": publisher.events,
                        "kv_events_replay": publisher.replay,
                    }
                )
                number += 1
            left -= len(mine)
            peers = [f"{m}-agent" for p in pd for m in machines[p]] if prfaas else []
            agent = _Agent([e["name"] for e in mine], peers, block_tokens)
            port = await agent.start()
            placed.append(
                {
                    "name": machine,
                    "agent": {"name": f"{machine}-agent", "admin": f"127.0.0.1:{port}"},
                    "engines": mine,
                }
            )
        kind = "prfaas" if prfaas else "pd"
        described.append({"name": name, "kind": kind, "machines": placed})
    links = [{"from": a, "to": b, "rate": "100 Gbit/s"} for a in names if a not in pd for b in pd]
    pipe.send(json.dumps({"clusters": described, "links": links}))
    while True:
        command = await loop.run_in_executor(None, pipe.recv)
        if command is None:
            break
        machine_number, payload = command
        await publishers[machine_number % len(publishers)].publish(payload)
    for task in tasks:
        task.cancel()


def serve(pipe: Connection, clusters: int, engines: int, block_tokens: int) -> None:
    """Until None is received: says the deployment file, then publishes (machine, payload)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(_serve(pipe, clusters, engines, block_tokens))
