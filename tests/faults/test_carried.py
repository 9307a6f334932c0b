"""What a gateway has to say to an engine, and what an engine tells of its cache, go through the
agent: a real agent with TLS, real sockets; the engine is a mock that listens on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import zmq.asyncio
from aiohttp import web

from prfaas.agent.service import Agent
from prfaas.agent.settings import settings_for
from prfaas.core.addresses import Address, parse_address
from prfaas.core.deployment import Deployment, MachineConfig, parse_deployment
from prfaas.core.errors import EngineError, LinkError, PeerError
from prfaas.gateway.agent_client import AgentClient
from prfaas.gateway.carried_events import CarriedFeed, KeyedFollower
from prfaas.gateway.carrying import CarryingConnector
from prfaas.gateway.credentials import Credentials, read_credentials
from prfaas.gateway.engine_client import EngineClient
from prfaas.gateway.feeds import cache_key
from prfaas.gateway.http_client import HttpClient
from prfaas.index.keyed_blocks import key_id
from prfaas.index.keys import PromptKeys
from prfaas.index.prefix_index import PrefixIndex
from prfaas.kv_events.feed import FeedState
from prfaas.kv_events.wire import Frame, Stopped
from prfaas.launch.addresses import free_address
from prfaas.testing.mock_deployment import until
from prfaas.testing.mock_http import MockServer
from prfaas.testing.mock_publisher import MockPublisher
from prfaas.tls.agents import Trust, agent_contexts
from prfaas.tls.authority import create_authority, issue
from prfaas.tls.context import client_context, peer_context
from prfaas.tls.files import TlsFiles, files_in

BLOCK = 4
TOKENS = list(range(70_000, 70_040))


class Engine(MockServer):
    """Streams as many events as it is told to, says whether its client has gone."""

    def __init__(self) -> None:
        super().__init__()
        self.release = asyncio.Event()
        self.gone = asyncio.Event()
        self.authorization: str | None = None

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/health", self._health),
            web.post("/v1/completions", self._stream),
            web.post("/large", self._large),
        ]

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(text="fine")

    async def _large(self, request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        self.authorization = request.headers.get("Authorization")
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"data: one\n\n")
        try:
            await self.release.wait()
            await response.write(b"data: two\n\n")
        except asyncio.CancelledError:
            self.gone.set()
            raise
        return response


class Place:
    """An agent, its engine, and a gateway's clients of both."""

    def __init__(self, deployment: Deployment, engine: Engine, agent: Agent) -> None:
        self.deployment, self.server, self.agent = deployment, engine, agent
        self.broken = False
        self.http = HttpClient()
        contexts = agent_contexts(deployment)
        self.client = AgentClient("a", deployment.agents[0].admin_url, self.http)
        self.client.tls = contexts["a"]
        self.engine = EngineClient("d", engine.url, self.http)
        self.engine.take(read_credentials(deployment, contexts)["d"])

    @contextlib.asynccontextmanager
    async def following(self, index: PrefixIndex) -> AsyncIterator[CarriedFeed]:
        follower = KeyedFollower(index.engine("d"), key_id(cache_key(self.deployment) or b""))
        feed = CarriedFeed("d", follower, self._follow, asyncio.Lock())
        task = asyncio.create_task(feed.run())
        try:
            yield feed
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _follow(self, stopped: Stopped) -> AsyncIterator[Frame]:
        async for frame in self.client.kv_events("d", stopped):
            if self.broken:
                raise LinkError("the line is broken")
            yield frame


def certificates(certs: Path, *names: str) -> None:
    create_authority(certs)
    for name in names:
        issue(certs, name)


def make_deployment(
    run: Path, url: str, events: str, replay: str, *, crl: Path | None = None
) -> Deployment:
    listed = "" if crl is None else f", crl: {crl}"
    own = f"ca: {run}/certs/ca.pem, cert: {run}/certs/%s.pem, key: {run}/certs/%s-key.pem"
    return parse_deployment(
        f"""
clusters:
- name: west
  kind: pd
  engines: [{{name: d, role: decode, url: "{url}", kv_events: "{events}",
              kv_events_replay: "{replay}", api_key_env: CARRIED_TEST_KEY}}]
  agent: {{name: a, admin: "{free_address()}", socket: {run}/s, arena: 4 MiB, slot: 64 KiB,
           tls: {{{own % ("a", "a")}}}}}
gateway: {{agent_tls: {{{own % ("gateway", "gateway")}{listed}}}}}
""",
        source="test",
    )


@contextlib.asynccontextmanager
async def publishing() -> AsyncIterator[MockPublisher]:
    with zmq.asyncio.Context() as context:
        publisher = MockPublisher(context, "127.0.0.1")
        task = asyncio.create_task(publisher.serve_replays())
        yield publisher
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        publisher.close()


@pytest.fixture
async def publisher() -> AsyncIterator[MockPublisher]:
    async with publishing() as publisher:
        yield publisher


@pytest.fixture
async def place(
    tmp_path: Path, publisher: MockPublisher, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Place]:
    monkeypatch.setenv("CARRIED_TEST_KEY", "an-engine-key")
    certificates(tmp_path / "certs", "a", "b", "gateway")
    server = Engine()
    await server.start()
    deployment = make_deployment(tmp_path, server.url, publisher.events, publisher.replay)
    agent = Agent(settings_for(deployment, "a"))
    await agent.start()
    place = Place(deployment, server, agent)
    try:
        yield place
    finally:
        place.engine.close()
        await place.http.close()
        await agent.close()
        await server.stop()


async def test_health_requests_and_large_bodies_go_through(place: Place) -> None:
    assert await place.engine.sickness() is None
    body = os.urandom(1_000_000)
    answer = await place.engine.pass_on("POST", "/large", body)
    assert answer.body == body
    assert place.agent.tunnels.opened_total >= 2
    assert place.agent.tunnels.open >= 1


async def test_events_come_one_by_one_and_a_client_that_goes_is_seen(place: Place) -> None:
    answer = await place.engine.open_answer("/v1/completions", b"{}", {})
    assert await answer.read_any() == b"data: one\n\n"
    assert place.server.authorization == "Bearer an-engine-key"
    answer.close()
    async with asyncio.timeout(60):
        await place.server.gone.wait()


async def test_an_engine_that_is_not_there_refuses_and_a_lost_agent_is_no_refusal(
    place: Place,
) -> None:
    await place.server.stop()
    sick = await place.engine.sickness()
    assert sick is not None
    assert sick.refused
    with pytest.raises(EngineError, match="cannot connect"):
        await place.engine.pass_on("POST", "/large", b"x")
    await place.agent.close()
    sick = await place.engine.sickness()
    assert sick is not None
    assert (sick.late, sick.refused) == (True, False)
    assert sick.why == "agent a: Connection refused", "/ready says it to everybody: no address"


@pytest.mark.parametrize("failure", [TimeoutError(), OSError(errno.EMFILE, "too many open files")])
async def test_an_agent_that_cannot_reach_a_live_engine_does_not_call_it_gone(
    place: Place, monkeypatch: pytest.MonkeyPatch, failure: OSError
) -> None:
    loop = asyncio.get_running_loop()
    connect = loop.create_connection

    async def fails(*args: Any, **options: Any) -> Any:
        if "ssl" not in options:  # The agent's, to its engine.
            raise failure
        return await connect(*args, **options)

    monkeypatch.setattr(loop, "create_connection", fails)
    sick = await place.engine.sickness()
    assert sick is not None
    assert (sick.late, sick.refused) == (True, False)


async def test_an_answer_that_breaks_off_at_the_engine_breaks_off_here(place: Place) -> None:
    answer = await place.engine.open_answer("/v1/completions", b"{}", {})
    await answer.read_any()
    for transport in place.server.connections:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()
    with pytest.raises((aiohttp.ClientError, OSError)):
        await answer.read()
    answer.close()


async def asked(place: Place, name: str, target: str) -> bytes:
    """The first line of the answer to a CONNECT with this certificate."""
    certs = Path(place.deployment.agents[0].tls.ca).parent  # type: ignore[union-attr]
    context = client_context(
        TlsFiles(certs / "ca.pem", certs / f"{name}.pem", certs / f"{name}-key.pem")
    )
    host, port = parse_address(place.deployment.agents[0].admin)
    reader, writer = await asyncio.open_connection(host, port, ssl=context)
    writer.write(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
    line = await reader.readline()
    writer.close()
    return line


async def test_only_gateways_and_only_to_engines_of_the_machine(place: Place) -> None:
    engine = place.server.url.removeprefix("http://")
    assert (await asked(place, "gateway", engine)).startswith(b"HTTP/1.1 200")
    assert (await asked(place, "b", engine)).startswith(b"HTTP/1.1 403")
    for target in ("127.0.0.1:22", str(Address("169.254.169.254", 80))):
        assert (await asked(place, "gateway", target)).startswith(b"HTTP/1.1 404")
    assert (await asked(place, "gateway", "nonsense")).startswith(b"HTTP/1.1 400")


async def test_an_agent_in_anothers_place_is_asked_for_nothing(place: Place) -> None:
    """It would be shown prompts, and engines' keys: an agent that was taken over, where another is
    dialled, has a certificate of the authority, but none of that name."""
    agent = place.deployment.agents[0]
    assert agent.tls is not None
    files = msgspec.structs.replace(
        files_in(agent.tls),
        cert=Path(agent.tls.ca).with_name("gateway.pem"),
        key=Path(agent.tls.ca).with_name("gateway-key.pem"),
    )
    mistaken = peer_context(files, "b", parse_address(agent.admin))
    place.engine.take(Credentials({}, mistaken))
    with pytest.raises(EngineError, match="cannot connect"):
        await place.engine.pass_on("POST", "/large", b"a prompt")
    async with aiohttp.ClientSession(connector=CarryingConnector()) as http:
        for url in (f"{place.server.url}/health", f"{agent.admin_url}/health"):
            with pytest.raises((aiohttp.ClientError, PeerError), match="issued to a, not to 'b'"):
                await http.get(url, ssl=mistaken)
    assert place.agent.tunnels.opened_total == 0


async def test_tools_ask_the_agent_that_they_mean(place: Place) -> None:
    """Another machine's would tell operators what it likes of this one."""

    def renamed(machine: MachineConfig) -> MachineConfig:
        agent = msgspec.structs.replace(machine.agent, name="b")
        return msgspec.structs.replace(machine, agent=agent)

    url = f"{place.deployment.agents[0].admin_url}/engines"
    async with aiohttp.ClientSession() as http:
        async with http.get(url, ssl=Trust(place.deployment).of(url)) as answer:
            assert answer.status == 200
        mistaken = Trust(place.deployment.with_machines(renamed)).of(url)
        with pytest.raises(aiohttp.ClientError, match="issued to a, not to 'b'"):
            await http.get(url, ssl=mistaken)


def stored(first: int, count: int) -> bytes:
    event = {
        "type": "BlockStored",
        "block_hashes": [2**63 + n for n in range(first, first + count)],
        "parent_block_hash": 2**63 + first - 1 if first else None,
        "token_ids": TOKENS[first * BLOCK : (first + count) * BLOCK],
        "block_size": BLOCK,
        "medium": "GPU",
        "extra_keys": [["a-salt"] if n == 0 else None for n in range(first, first + count)],
        "group_idx": 0,
        "kv_cache_spec_kind": "full_attention",
    }
    return msgspec.msgpack.encode([1.0, [event], 0])


def held(index: PrefixIndex) -> int:
    found = index.match(PromptKeys(TOKENS, salt="a-salt"))
    return found[0].match.transferable_tokens if found else 0


async def test_a_gateway_learns_of_a_cache_through_the_agent_and_goes_on_after_a_break(
    place: Place, publisher: MockPublisher
) -> None:
    index = PrefixIndex(max_blocks=100, seed=cache_key(place.deployment) or b"")
    await publisher.publish(stored(0, 2))
    async with place.following(index) as feed:
        await until(lambda: held(index) == 8)
        await publisher.publish(stored(2, 1))
        await until(lambda: held(index) == 12)
        await until(lambda: feed.state is FeedState.LIVE)
        resets = feed.follower.resets_total
        place.broken = True
        await until(lambda: feed.state is FeedState.SILENT)
        assert held(index) == 12  # What was known stays for a while.
        await publisher.publish(stored(3, 1))
        place.broken = False
        await until(lambda: held(index) == 16)
        assert feed.follower.resets_total == resets


async def test_another_cache_key_is_said_and_nothing_is_believed(
    place: Place, publisher: MockPublisher, caplog: pytest.LogCaptureFixture
) -> None:
    index = PrefixIndex(max_blocks=100, seed=b"another")
    await publisher.publish(stored(0, 2))
    follower = KeyedFollower(index.engine("d"), key_id(b"another"))
    feed = CarriedFeed("d", follower, lambda at: place.client.kv_events("d", at), asyncio.Lock())
    task = asyncio.create_task(feed.run())
    await until(lambda: "its agent has another cache key" in caplog.text)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert index.blocks == 0
