"""Two whole agents in one process: Unix sockets, shared memory, the TCP link, HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import msgspec
import pytest

from prfaas.agent import engine_server, service
from prfaas.agent.no_link import NoLink
from prfaas.agent.service import Agent
from prfaas.agent.settings import AgentSettings, settings_for
from prfaas.core.cache_copies import AwaitCopy, CopyCached
from prfaas.core.cache_news import CacheNews, KeyedWith, Stored, Whole
from prfaas.core.deployment import Deployment, EngineConfig, MachineConfig, parse_deployment
from prfaas.core.errors import ConfigError, LinkError
from prfaas.core.gateway_sessions import Renewal
from prfaas.core.prefixes import PromptPrefix, chain, root_digest, stretch
from prfaas.core.versions import AGENT_API, AGENT_API_HEADER
from prfaas.engine_socket.errors import RegistrationRefused, TransferUnusable
from prfaas.engine_socket.framing import encode
from prfaas.engine_socket.lent import Import
from prfaas.engine_socket.messages import (
    LeaseSlots,
    OpenImport,
    OpenLoad,
    RegisterEngine,
    ReturnSlots,
)
from prfaas.gateway.agent_client import AgentClient
from prfaas.gateway.http_client import HttpClient
from prfaas.index.keyed_prefixes import PLAINTEXT_KEY, KeyedPrefixes
from prfaas.launch.addresses import free_address
from prfaas.link.api import TransferKey
from prfaas.pool.effects import AnnounceCached
from prfaas.testing.mock_engine_rank import (
    MOCK_DIGEST,
    ONE_BLOCK,
    MockEngineRank,
    content,
    mock_layout,
)

SIZE = 1_300_000


def deployment(run: Path) -> Deployment:
    east, west = free_address(), free_address()
    return parse_deployment(
        f"""
clusters:
- name: east
  kind: prfaas
  engines: [{{name: p0, role: prefill}}]
  agent: {{name: a-east, listen: "{east}", socket: {run}/e, plaintext: true,
           arena: 4 MiB, slot: 64 KiB}}
- name: west
  kind: pd
  engines: [{{name: pdp, role: prefill}}, {{name: pdd, role: decode}}]
  agent: {{name: a-west, listen: "{west}", socket: {run}/w, plaintext: true,
           arena: 4 MiB, slot: 64 KiB}}
links: [{{from: east, to: west}}]
""",
        source="test",
    )


class Stage:
    """The agents, the engines that a test attached, an HTTP client."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.deployment = deployment(run)
        self.east = Agent(settings_for(self.deployment, "a-east"))
        self.west = Agent(settings_for(self.deployment, "a-west"))
        self.ranks: list[MockEngineRank] = []

    async def engine(self, name: str, layout: Any = None) -> MockEngineRank:
        path = str(self.run / ("e" if name == "p0" else "w"))
        rank = await asyncio.to_thread(MockEngineRank, path, name, layout)
        self.ranks.append(rank)
        return rank

    async def get(self, agent: Agent, path: str) -> Any:
        async with self.http.get(agent.admin_url + path) as answer:
            assert answer.status == 200, await answer.text()
            return json.loads(await answer.read())


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    before = open_files()
    stage = Stage(tmp_path)
    await stage.east.start()
    await stage.west.start()
    async with aiohttp.ClientSession() as stage.http:
        yield stage
        rank = None
        for rank in stage.ranks:
            await asyncio.to_thread(rank.client.close)
        await settled(lambda: not stage.west.driver.snapshot().engines)
        for agent in (stage.east, stage.west):
            agent.driver.check_integrity()
    await stage.east.close()
    await stage.west.close()
    assert os.listdir(tmp_path) == [], "the sockets' paths are gone"
    del stage.ranks, rank
    gc.collect()  # an engine's mapping holds its file until the last view is gone
    assert open_files() - before == set()
    assert not [t for t in threading.enumerate() if t.name.startswith("prfaas")]


def open_files() -> set[tuple[str, str]]:
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.add((fd, os.readlink(f"/proc/self/fd/{fd}")))
    return found


async def settled(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - other threads set no event
            await asyncio.sleep(0.005)


async def test_a_line_is_measured_on_demand(stage: Stage) -> None:
    links = f"{stage.east.admin_url}/links"
    await settled(lambda: stage.east._link.states()[0].connections)
    async with stage.http.post(f"{links}/a-west/measure?seconds=0.2") as answer:
        measured = json.loads(await answer.read())
        assert (answer.status, measured["peer"]) == (200, "a-west")
        assert measured["goodput_bytes_per_s"] > 0
    async with stage.http.post(f"{links}/nobody/measure") as answer:
        assert (answer.status, "nothing to 'nobody'" in await answer.text()) == (503, True)
    async with stage.http.post(f"{links}/a-west/measure?seconds=11") as answer:
        assert (answer.status, "is not a number in 0.1..10" in await answer.text()) == (400, True)


async def test_remote_hand_off_and_its_record(stage: Stage) -> None:
    p0, pdd = await stage.engine("p0"), await stage.engine("pdd")
    poll = asyncio.create_task(stage.get(stage.west, "/transfers/x?wait_s=20"))
    assert await asyncio.to_thread(p0.export, "x", "a-west", SIZE) is None
    record = await poll
    assert (record["state"], record["bytes_stored"], record["sent"]) == ("complete", SIZE, None)
    assert record["first_byte_at"] <= record["completed_at"]
    sent = (await stage.get(stage.east, "/transfers/x?wait_s=20"))["sent"]
    assert (sent["state"], sent["bytes_acknowledged"]) == ("complete", SIZE)
    assert 0 <= sent["bytes_acknowledged_at_export_end"] <= SIZE
    assert await asyncio.to_thread(pdd.read, "x", SIZE) == "ok"
    async with stage.http.delete(stage.west.admin_url + "/transfers/x") as answer:
        assert answer.status == 204
    assert stage.west.driver.snapshot().slots.held == 0
    await settled(lambda: stage.east.driver.snapshot().slots.free == 64)


async def test_local_hand_off(stage: Stage) -> None:
    pdp, pdd = await stage.engine("pdp"), await stage.engine("pdd")
    assert await asyncio.to_thread(pdp.export, "x", "a-west", SIZE) is None
    assert await asyncio.to_thread(pdd.read, "x", SIZE) == "ok"
    record = await stage.get(stage.west, "/transfers/x")
    assert record["state"] == record["sent"]["state"] == "complete"


async def test_who_waits_until_it_is_loaded_is_told_when_the_engine_lets_go(stage: Stage) -> None:
    p0, pdd = await stage.engine("p0"), await stage.engine("pdd")
    assert await asyncio.to_thread(p0.export, "x", "a-west", SIZE) is None
    asked = asyncio.create_task(stage.get(stage.west, "/transfers/x?wait_s=60&reads=1"))
    assert (await stage.get(stage.west, "/transfers/x?wait_s=20"))["reads"] == 0
    opened = pdd.client.open_import(OpenImport("x", *ONE_BLOCK, SIZE, MOCK_DIGEST))
    await asyncio.to_thread(opened.future.result, 30)
    assert not asked.done()
    pdd.client.close_import(opened)
    del opened
    assert (await asked)["reads"] == 1
    await stage.http.delete(stage.west.admin_url + "/transfers/x")


async def test_many_at_once_share_a_small_arena(stage: Stage) -> None:
    """Several times what both arenas hold, in both kinds of hand-off, at the same time: each
    transfer arrives, or is stopped with a reason while the others go on."""
    p0, pdp, pdd = [await stage.engine(name) for name in ("p0", "pdp", "pdd")]

    async def one(number: int) -> str:
        source, agent = (pdp, stage.west) if number % 3 == 0 else (p0, stage.east)
        path = f"/transfers/t{number}"
        await asyncio.to_thread(source.export, path[11:], "a-west", SIZE)
        sent = (await stage.get(agent, path + "?wait_s=20"))["sent"]
        outcome = sent["reason"] or await asyncio.to_thread(pdd.read, path[11:], SIZE)
        await stage.http.delete(stage.west.admin_url + path)
        return str(outcome)

    outcomes = await asyncio.gather(*[one(number) for number in range(8)])
    assert outcomes.count("ok") >= 4
    assert set(outcomes) <= {"ok", "agent a-west took nothing while memory ran out"}
    await settled(lambda: stage.east.driver.snapshot().slots.free == 64)
    await settled(lambda: stage.west.driver.snapshot().slots.held == 0)


PROMPT = list(range(16))
ROOT = root_digest("w", adapter=None, salt=None)


def prefix() -> PromptPrefix:
    found = stretch(
        chain(ROOT, PROMPT, 16), ROOT, PROMPT, block_tokens=16,
        from_token=0, to_token=16, salt=None, adapter=None,
    )  # fmt: skip
    assert found is not None
    return found


async def told(stage: Stage, agent: Agent, enough: type[Any]) -> list[Any]:
    """What a follower of its cache hears, up to the first news of a kind."""
    heard: list[Any] = []
    async with stage.http.get(agent.admin_url + "/cache/events") as lines:
        async for line in lines.content:
            heard.append(msgspec.json.decode(line, type=CacheNews))  # type: ignore[arg-type]
            if isinstance(heard[-1], enough):
                return heard
    raise AssertionError("the stream ended")


async def test_others_have_their_turns_while_all_that_is_cached_is_told(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyed = KeyedPrefixes(PLAINTEXT_KEY).keyed(prefix())
    one = AnnounceCached(TransferKey("x", 0, 1), "layout", keyed, None)
    monkeypatch.setattr(stage.east.driver, "cached", lambda: [one] * 5000)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    heard = await told(stage, stage.east, Whole)
    counting.cancel()
    assert len(heard) == 5002
    assert turns >= 5000


async def test_what_was_handed_over_is_cached_on_both_sides_and_loaded(stage: Stage) -> None:
    p0, pdd = await stage.engine("p0"), await stage.engine("pdd")
    assert [type(news) for news in await told(stage, stage.east, Whole)] == [KeyedWith, Whole]

    def send_and_read() -> Import:
        p0.begin("x", "a-west", SIZE)
        p0.client.describe("x", prefix())
        done = 0
        while done < SIZE:
            done = p0.hand_over("x", done, SIZE)
        assert p0.client.finish_export("x") is None
        opened = pdd.client.open_import(OpenImport("x", *ONE_BLOCK, SIZE, MOCK_DIGEST))
        opened.future.result(30)
        pdd.client.describe("x", prefix())
        return opened

    opened = await asyncio.to_thread(send_and_read)
    following = asyncio.create_task(told(stage, stage.west, Stored))
    await stage.http.delete(stage.west.admin_url + "/transfers/x")
    # It is still read: nothing is cached before the engine lets go.
    assert (await stage.get(stage.west, "/cache"))["entries"] == []
    await asyncio.to_thread(pdd.client.close_import, opened)
    del opened
    stored = (await following)[-1]
    keyed = KeyedPrefixes(PLAINTEXT_KEY).keyed(prefix())
    assert (stored.transfer_id, stored.prefix, stored.stands_at) == ("x", keyed, None)
    await settled(lambda: stage.east.driver.snapshot().cached)
    for agent, engine in ((stage.east, "p0"), (stage.west, "pdp")):
        listed = await stage.get(agent, "/cache")
        (entry,) = listed["entries"]
        assert (entry["from_token"], entry["to_token"]) == (0, 16)
        assert entry["total_bytes"] == SIZE <= listed["used_bytes"] <= listed["size_bytes"]
        rank = p0 if engine == "p0" else await stage.engine(engine)
        assert await asyncio.to_thread(load, rank, SIZE) == "ok"
    page = await (await stage.http.get(stage.west.admin_url + "/metrics")).text()
    assert 'prfaas_pool_loads_total{outcome="ready"} 1.0' in page
    assert "prfaas_pool_loaded_tokens_total 16.0" in page


async def test_what_is_cached_can_be_pinned_and_unpinned(stage: Stage) -> None:
    p0, size = await stage.engine("p0"), 300_000

    def send() -> None:
        p0.begin("x", "a-west", size)
        p0.client.describe("x", prefix())
        done = 0
        while done < size:
            done = p0.hand_over("x", done, size)
        assert p0.client.finish_export("x") is None

    await asyncio.to_thread(send)
    await settled(lambda: stage.east.driver.snapshot().cached)
    pins = stage.east.admin_url + "/cache/pins/"
    for name, status, why in (("gone", 409, "not cached here"), ("no%20id", 400, "transfer id")):
        async with stage.http.put(pins + name) as answer:
            assert answer.status == status
            assert why in (await answer.json())["error"]
    for method, pinned in (("PUT", ["x"]), ("DELETE", []), ("DELETE", [])):
        async with stage.http.request(method, pins + "x") as answer:
            assert answer.status == 204, await answer.text()
        listed = await stage.get(stage.east, "/cache")
        assert listed["pinned"] == pinned
        assert bool(listed["pinned_bytes"]) == bool(pinned)
        assert listed["pinned_bytes"] <= listed["most_pinned_bytes"]


def load(rank: MockEngineRank, size: int) -> str:
    opened = rank.client.open_load(
        local_tokens=0, to_token=16, block_tokens=16, names=prefix().digests
    )
    try:
        (part,) = opened.future.result(30)
        arena = opened.session.arena
        right = all(
            content("x", flat, length) == arena[at : at + length]
            for flat, at, length in part.extents
        )
        return "ok" if right and part.extents[-1].flat_end == size else "wrong bytes"
    finally:
        rank.client.close_load(opened)


async def test_what_is_not_cached_cannot_be_loaded(stage: Stage) -> None:
    rank = await stage.engine("pdp")
    with pytest.raises(TransferUnusable, match="not cached here"):
        await asyncio.to_thread(load, rank, SIZE)


async def test_cancel_reaches_the_engine(stage: Stage) -> None:
    p0 = await stage.engine("p0")
    await asyncio.to_thread(p0.begin, "x", "a-west", SIZE)
    await settled(lambda: stage.west.driver.snapshot().receptions == 1)
    await stage.http.delete(stage.east.admin_url + "/transfers/x")
    await settled(lambda: p0.client.stopped("x") == "cancelled")
    record = await stage.get(stage.west, "/transfers/x?wait_s=20")
    assert record["state"] == "failed"
    assert stage.west.driver.snapshot().slots.held == 0


async def test_a_receiver_that_cannot_take_it_refuses(stage: Stage) -> None:
    p0 = await stage.engine("p0")
    stopped = await asyncio.to_thread(p0.export, "x", "a-west", 4_000_000)
    if stopped is None:
        record = await stage.get(stage.east, "/transfers/x?wait_s=20")
        stopped = record["sent"]["reason"]
    assert "arena larger" in stopped


async def test_engines_of_two_builds_stand_side_by_side_and_read_only_what_fits(
    stage: Stage,
) -> None:
    pdd, pdp = await stage.engine("pdd"), await stage.engine("pdp", mock_layout("float16"))
    assert await asyncio.to_thread(pdp.export, "x", "a-west", SIZE) is None
    told = await asyncio.to_thread(pdd.read, "x", SIZE)
    assert "layout differs" in told
    engines = (await stage.get(stage.west, "/engines"))["engines"]
    assert len({e["fingerprint"] for e in engines}) == 2


async def test_an_agent_takes_over_another_deployment_file_while_it_runs(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    p0, pdd = await stage.engine("p0"), await stage.engine("pdd")
    with pytest.raises(RegistrationRefused, match="not in the deployment here"):
        await stage.engine("pde")
    whole = stage.deployment

    def joined(machine: MachineConfig) -> MachineConfig:
        if machine.name != "west":
            return machine
        more = EngineConfig(name="pde", role="decode")
        agent = msgspec.structs.replace(machine.agent, slot="128 KiB")
        return msgspec.structs.replace(machine, engines=(*machine.engines, more), agent=agent)

    await stage.west.take(settings_for(whole.with_machines(joined), "a-west"))
    pde = await stage.engine("pde")
    assert "slot_bytes has changed: that takes a restart" in caplog.text
    assert "longest_deadline_s has changed" not in caplog.text
    assert await asyncio.to_thread(p0.export, "x", "a-west", SIZE) is None
    assert await asyncio.to_thread(pde.read, "x", SIZE) == "ok"
    alone = msgspec.structs.replace(whole, links=())
    unlinked = settings_for(alone, "a-east")
    assert unlinked.link is None
    await stage.east.take(unlinked)
    assert "whether it has a KV link has changed" in caplog.text
    assert await asyncio.to_thread(p0.export, "y", "a-west", SIZE) is None
    assert await asyncio.to_thread(pdd.read, "y", SIZE) == "ok"


async def test_a_deployment_file_that_is_bad_leaves_the_agent_as_it_is(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    def bad() -> AgentSettings:
        raise ConfigError("fleet.yaml: no cluster of kind 'pd'")

    await service._take_again(stage.west, bad)
    assert "not taken over: fleet.yaml: no cluster" in caplog.text
    await stage.engine("pdd")


async def test_an_engine_that_is_not_in_the_deployment_is_refused(stage: Stage) -> None:
    await stage.engine("pdd")
    with pytest.raises(RegistrationRefused, match="not in the deployment here; known: pdd, pdp"):
        await asyncio.to_thread(MockEngineRank, str(stage.run / "w"), "stranger", None)
    engines = (await stage.get(stage.west, "/engines"))["engines"]
    assert [(e["engine"], e["pid"]) for e in engines] == [("pdd", os.getpid())]
    assert engines[0]["fingerprint"] == mock_layout().fingerprint()


async def test_http(stage: Stage) -> None:
    assert await stage.get(stage.west, "/health") == {"agent": "a-west"}
    async with stage.http.get(stage.west.admin_url + "/engines") as answer:
        assert answer.headers[AGENT_API_HEADER] == str(AGENT_API)
        memory = (await answer.json())["memory"]
    slot = 64 * 1024  # Of 64 a quarter is for exports.
    assert memory == {"total_bytes": 48 * slot, "reserved_bytes": 0, "slot_bytes": slot}
    (link,) = (await stage.get(stage.east, "/links"))["links"]
    assert link["peer"] == "a-west"
    unknown = await stage.get(stage.west, "/transfers/nothing?wait_s=0.01")
    assert unknown["state"] == "unknown"
    async with stage.http.get(stage.east.admin_url + "/links/events") as events:
        for _ in range(2):
            assert "links" in json.loads(await events.content.readline())
    async with stage.http.get(stage.west.admin_url + "/metrics") as answer:
        page = await answer.text()
    assert 'prfaas_pool_slots{state="free"} 64.0' in page
    async with stage.http.get(stage.east.admin_url + "/metrics") as answer:
        assert 'prfaas_link_acknowledged_bytes_total{peer="a-west"} 0.0' in await answer.text()


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("/transfers/a%20b", 400, "a transfer id is"),
        ("/transfers/x?wait_s=forever", 400, "wait_s=forever is not a number in 0..300"),
        ("/transfers/x?ranks=0", 400, "ranks=0"),
        ("/nowhere", 404, "Not Found"),
    ],
)
async def test_bad_http(stage: Stage, path: str, status: int, error: str) -> None:
    async with stage.http.get(stage.west.admin_url + path) as answer:
        assert answer.status == status
        assert error in (await answer.json())["error"]


async def test_a_page_in_a_browser_asks_for_nothing(stage: Stage) -> None:
    origin = {"Origin": "http://evil.example"}
    for method, path in (
        ("POST", "/links/a-west/measure?seconds=0.1"),
        ("DELETE", "/transfers/x"),
        ("GET", "/cache"),
    ):
        url = stage.east.admin_url + path
        async with stage.http.request(method, url, headers=origin) as answer:
            assert answer.status == 403, path
            assert "web pages" in (await answer.json())["error"]


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\xff\xff\xff\xff",
        encode(LeaseSlots(1)),
        encode(RegisterEngine("pdd", mock_layout(), 1)) + encode(LeaseSlots(1)),
        b"\x03\x00\x00\x00abc",
    ],
)
async def test_nonsense_on_the_socket_ends_that_connection_only(
    stage: Stage, nonsense: bytes
) -> None:
    reader, writer = await asyncio.open_unix_connection(str(stage.run / "w"))
    writer.write(nonsense)
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    await stage.engine("pdd")


async def test_returning_a_slot_that_was_never_lent_drops_the_engine(stage: Stage) -> None:
    reader, writer = await asyncio.open_unix_connection(str(stage.run / "w"))
    writer.write(encode(RegisterEngine("pdd", mock_layout(), 1)))
    assert b"Registered" in await reader.read(4096)
    writer.write(encode(LeaseSlots(3)))
    assert b"SlotsLeased" in await reader.read(4096)
    writer.write(encode(ReturnSlots((7,))))
    assert await reader.read() == b""
    assert stage.west.driver.snapshot().slots.leased == 3, "until the engine closes its end"
    writer.close()
    await writer.wait_closed()
    await settled(lambda: stage.west.driver.snapshot().slots.leased == 0)


async def test_an_engine_that_asks_on_and_reads_no_answer_is_dropped(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engine_server, "_MOST_UNREAD", 1 << 20)
    reader, writer = await asyncio.open_unix_connection(str(stage.run / "w"))
    writer.write(encode(RegisterEngine("pdd", mock_layout(), 1)))
    assert b"Registered" in await reader.read(4096)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    for load in range(40_000):
        writer.write(encode(OpenLoad(load, 0, 16, 16, (bytes(16),))))
    await settled(lambda: "it has not read 1 MiB of answers" in caplog.text)
    assert stage.west.driver.snapshot().counters.loads_failed < 40_000
    writer.transport.abort()
    await settled(lambda: not stage.west.driver.snapshot().engines)
    await stage.engine("pdd")


async def test_a_dropped_engine_is_told_nothing_more(stage: Stage) -> None:
    """It keeps its end open, so that what it holds stays its own; what it asked for lapses, and
    nobody else is hurt by that."""
    problems: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, problem: problems.append(problem))
    driver = stage.west.driver
    reader, writer = await asyncio.open_unix_connection(str(stage.run / "w"))
    writer.write(encode(RegisterEngine("pdd", mock_layout(), 1)))
    assert b"Registered" in await reader.read(4096)
    writer.write(encode(LeaseSlots(8)))
    pdp = await stage.engine("pdp")
    await asyncio.to_thread(pdp.begin, "y", "a-west", 5)
    await settled(lambda: driver.snapshot().slots.leased == 16)
    for message in (LeaseSlots(1), OpenImport("x", 0, 16, 5, MOCK_DIGEST), ReturnSlots((99,))):
        writer.write(encode(message))
    assert b"SlotsLeased" in await reader.read()
    await asyncio.to_thread(pdp.hand_over, "y", 0, 5)
    assert await asyncio.to_thread(pdp.client.finish_export, "y") is None
    await settled(lambda: driver.snapshot().slots.leased == 8)
    await stage.http.delete(stage.west.admin_url + "/transfers/x")
    record = await stage.get(stage.west, "/transfers/y?wait_s=20")
    assert record["state"] == "complete"
    assert problems == []
    writer.close()
    await writer.wait_closed()


async def test_a_fault_in_the_sweep_does_not_end_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = list[str]()
    enough = asyncio.Event()

    def fail(event: object = None) -> None:
        tried.append(type(event).__name__)
        if len(tried) >= 6:
            enough.set()
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(service, "SWEEP_PERIOD_S", 0.0)
    driver, port = SimpleNamespace(handle=fail), SimpleNamespace(report_progress=lambda: None)
    sweeper = asyncio.create_task(service._sweep(driver, port))  # type: ignore[arg-type]
    await enough.wait()
    sweeper.cancel()
    assert len(tried) >= 6
    assert set(tried) == {"TimePassed"}
    assert "ZeroDivisionError: ours" in caplog.text


async def test_what_has_taken_its_sockets_place_stays_when_it_ends(tmp_path: Path) -> None:
    agent, path = Stage(tmp_path).east, tmp_path / "e"
    await agent.start()
    os.unlink(path)
    await asyncio.to_thread(path.write_text, "three years of work")
    await agent.close()
    assert await asyncio.to_thread(path.read_text) == "three years of work"


async def test_a_second_agent_at_the_same_socket_is_refused(stage: Stage) -> None:
    again = Agent(settings_for(stage.deployment, "a-west"), lambda sink: NoLink())
    with pytest.raises(ConfigError, match="another agent listens"):
        await again.start()


async def test_a_gateway_that_falls_silent_leaves_nothing_here(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = "0123456789ab"
    p0 = await stage.engine("p0")
    await stage.engine("pdd")
    monkeypatch.setattr("prfaas.pool.sessions.LAPSES_AFTER_S", 0.5)
    body = msgspec.json.encode(Renewal(name="gateway-1"))
    for agent in (stage.east, stage.west):
        url = f"{agent.admin_url}/gateways/{mine}"
        async with stage.http.put(url, data=body) as answer:
            assert answer.status == 200
            (alive,) = json.loads(await answer.read())["gateways"]
            assert (alive["id"], alive["name"]) == (mine, "gateway-1")
    assert len((await stage.get(stage.west, "/gateways"))["gateways"]) == 1
    assert await asyncio.to_thread(p0.export, f"{mine}-r-1", "a-west", SIZE) is None
    await stage.get(stage.west, f"/transfers/{mine}-r-1?wait_s=20")
    assert stage.west.driver.snapshot().slots.held > 0
    await settled(lambda: stage.west.driver.snapshot().slots.held == 0)
    await settled(lambda: stage.east.driver.snapshot().slots.free == 64)
    assert (await stage.get(stage.west, "/gateways"))["gateways"] == []
    assert "cancelled" in str(await asyncio.to_thread(p0.export, f"{mine}-s-1", "a-west", SIZE))


async def test_a_gateway_that_ends_says_so(stage: Stage) -> None:
    url = f"{stage.west.admin_url}/gateways/0123456789ab"
    async with stage.http.put(url, data=b'{"name": "gateway-1"}') as answer:
        assert answer.status == 200
    async with stage.http.delete(url) as answer:
        assert answer.status == 204
    assert (await stage.get(stage.west, "/gateways"))["gateways"] == []


@pytest.mark.parametrize(
    ("session", "body", "error"),
    [
        ("short", b'{"name": "g"}', "a session id is"),
        ("UPPER-CASE", b'{"name": "g"}', "a session id is"),
        ("0123456789ab", b"\xff\xfe", "not a renewal"),
        ("0123456789ab", b'{"name": "g", "engines": 5}', "not a renewal"),
    ],
)
async def test_a_session_is_only_renewed_as_it_should(
    stage: Stage, session: str, body: bytes, error: str
) -> None:
    async with stage.http.put(f"{stage.west.admin_url}/gateways/{session}", data=body) as answer:
        assert answer.status == 400
        assert error in json.loads(await answer.read())["error"]


async def test_who_speaks_another_version_is_told_so_and_changes_nothing(stage: Stage) -> None:
    url = f"{stage.west.admin_url}/gateways/0123456789ab"
    other = {AGENT_API_HEADER: str(AGENT_API + 1)}
    async with stage.http.put(url, data=b'{"name": "gateway-1"}', headers=other) as answer:
        assert answer.status == 426
        assert answer.headers[AGENT_API_HEADER] == str(AGENT_API)
        why = json.loads(await answer.read())["error"]
        assert f"version {AGENT_API}, you speak '{AGENT_API + 1}': install releases" in why
    assert (await stage.get(stage.west, "/gateways"))["gateways"] == []
    ours = {AGENT_API_HEADER: str(AGENT_API)}
    async with stage.http.put(url, data=b'{"name": "gateway-1"}', headers=ours) as answer:
        assert answer.status == 200


async def test_a_gateway_of_the_first_release_is_served_without_a_session(stage: Stage) -> None:
    """It says no version, holds no session, and its transfer ids are no session's."""
    p0, pdd = await stage.engine("p0"), await stage.engine("pdd")
    assert await asyncio.to_thread(p0.export, "2f6a-1", "a-west", SIZE) is None
    assert (await stage.get(stage.west, "/transfers/2f6a-1?wait_s=20"))["state"] == "complete"
    assert await asyncio.to_thread(pdd.read, "2f6a-1", SIZE) == "ok"
    async with stage.http.delete(stage.west.admin_url + "/transfers/2f6a-1") as answer:
        assert answer.status == 204
    assert stage.west.driver.snapshot().slots.held == 0


async def test_a_cached_prefix_is_copied_over_the_link_and_loaded_there(stage: Stage) -> None:
    p0, pdp = await stage.engine("p0"), await stage.engine("pdp")

    def send() -> None:
        p0.begin("x", "a-west", SIZE)
        p0.client.describe("x", prefix())
        done = 0
        while done < SIZE:
            done = p0.hand_over("x", done, SIZE)
        assert p0.client.finish_export("x") is None

    await asyncio.to_thread(send)
    assert (await stage.get(stage.west, "/transfers/x?wait_s=20"))["state"] == "complete"
    await stage.http.delete(stage.west.admin_url + "/transfers/x")  # nobody has read it there
    await settled(lambda: stage.east.driver.snapshot().cached)
    with pytest.raises(TransferUnusable, match="not cached here"):
        await asyncio.to_thread(load, pdp, SIZE)

    http = HttpClient(30.0)
    east = AgentClient("a-east", stage.east.admin_url, http)
    west = AgentClient("a-west", stage.west.admin_url, http)
    try:
        wanted = CopyCached(transfer_id="gone", destination="a-west", deadline_s=30.0)
        with pytest.raises(LinkError, match="gone is not cached here"):
            await east.send_copy("none", wanted)
        keyed = KeyedPrefixes(PLAINTEXT_KEY).keyed(prefix())
        spoilt = msgspec.structs.replace(keyed, from_token=3)
        with pytest.raises(LinkError, match="whole blocks"):
            await west.await_copy("copy", AwaitCopy(prefix=spoilt, deadline_s=30.0))
        await west.await_copy("copy", AwaitCopy(prefix=keyed, deadline_s=30.0))
        await east.send_copy("copy", msgspec.structs.replace(wanted, transfer_id="x"))
        assert (await west.transfer("copy", wait_s=20.0, ranks=1)).state == "complete"
    finally:
        await http.close()
    assert await asyncio.to_thread(load, pdp, SIZE) == "ok"
    await settled(lambda: stage.east.driver.snapshot().slots.held == 0)
    async with stage.http.put(stage.west.admin_url + "/cache/copies/c", data=b"{") as answer:
        assert answer.status == 400
        assert "not what this request carries" in await answer.text()


@pytest.mark.parametrize("fault", [PermissionError(13, "Permission denied"), KeyError("ours")])
async def test_a_deployment_file_that_cannot_be_taken_over_ends_no_agent(
    tmp_path: Path, fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    settings, told = settings_for(deployment(tmp_path), "a-east"), asyncio.Event()
    reads = asyncio.Queue[None]()

    def reread() -> AgentSettings:
        reads.put_nowait(None)
        raise fault

    serving = asyncio.create_task(service.serve(settings, reread=reread, told=told))
    async with asyncio.timeout(60):
        for _ in range(2):
            told.set()
            await reads.get()
    assert not serving.done()
    assert "taken over" in caplog.text
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
