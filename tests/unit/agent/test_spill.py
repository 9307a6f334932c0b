"""A whole agent with a disk: what it had cached is there after its end, right or not at all."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from prfaas.agent import spill_directory, spill_files
from prfaas.agent.service import Agent
from prfaas.agent.settings import settings_for
from prfaas.core.cache_news import CacheNews, Evicted, Stored, Whole
from prfaas.core.deployment import parse_deployment
from prfaas.core.errors import ConfigError, PrfaasError
from prfaas.core.prefixes import PromptPrefix, chain, root_digest, stretch
from prfaas.pool.events import CopyRequested
from prfaas.testing.mock_engine_rank import MockEngineRank, content

SIZE = 300_000
SLOT = 64 << 10
ROOT = root_digest("w", adapter=None, salt=None)
WAIT_S = 60.0


def prompt(number: int) -> list[int]:
    return list(range(number * 1000, number * 1000 + 16))


def prefix(number: int, salt: str | None = None) -> PromptPrefix:
    root, tokens = root_digest("w", adapter=None, salt=salt), prompt(number)
    found = stretch(
        chain(root, tokens, 16), root, tokens, block_tokens=16,
        from_token=0, to_token=16, salt=salt, adapter=None,
    )  # fmt: skip
    assert found is not None
    return found


class Stage:
    """An agent that ends and begins, and an engine of its machine."""

    def __init__(self, run: Path, size: str = "64 MiB") -> None:
        self.run, self.size = run, size
        self.agent: Agent | None = None
        self.rank: MockEngineRank | None = None

    @property
    def files(self) -> list[Path]:
        return sorted((self.run / "spill").glob("*.kv"))

    async def begin(self, *, engine: bool = True) -> None:
        deployment = parse_deployment(
            f"""
clusters:
- name: west
  kind: pd
  engines: [{{name: pdd, role: decode}}]
  agent: {{name: a-west, socket: {self.run}/w, plaintext: true, arena: 4 MiB, slot: 64 KiB,
           cache: {{size: 1 MiB, spill: {{path: {self.run}/spill, size: {self.size}}}}}}}
links: []
""",
            source="test",
        )
        self.agent = Agent(settings_for(deployment, "a-west"))
        await self.agent.start()
        if engine:
            self.rank = await asyncio.to_thread(MockEngineRank, str(self.run / "w"), "pdd")

    async def end(self) -> None:
        if self.rank is not None:
            await asyncio.to_thread(self.rank.client.close)
            self.rank = None
        if self.agent is not None:
            await settled(lambda: not self.pool.engines)
            self.agent.driver.check_integrity()
            await self.agent.close()
            self.agent = None

    @property
    def pool(self) -> Any:
        assert self.agent is not None
        return self.agent.driver.snapshot()

    @property
    def on_disk(self) -> Any:
        assert self.agent is not None
        return self.agent.driver.on_disk()

    def _keep(self, number: int, salt: str | None) -> None:
        rank, name = self.rank, f"t{number}"
        assert rank is not None
        rank.begin(name, "", SIZE, readers=())
        rank.client.describe(name, prefix(number, salt))
        done = 0
        while done < SIZE:
            done = rank.hand_over(name, done, SIZE)
        assert rank.client.finish_export(name) is None

    async def keep(self, number: int, salt: str | None = None) -> None:
        """The engine has its agent keep a prompt's KV, until that is on disk."""
        await asyncio.to_thread(self._keep, number, salt)
        name = f"t{number}"
        await settled(lambda: name in {entry.transfer_id for entry in self.on_disk})

    def _load(self, number: int, salt: str | None) -> str:
        assert self.rank is not None
        load = self.rank.client.open_load(
            local_tokens=0, to_token=16, block_tokens=16, names=prefix(number, salt).digests
        )
        try:
            (part,) = load.future.result(WAIT_S)
            right = all(
                content(f"t{number}", flat, length) == load.session.arena[at : at + length]
                for flat, at, length in part.extents
            )
            whole = sum(extent.length for extent in part.extents) == SIZE
            return "ok" if right and whole else "wrong bytes"
        except PrfaasError as error:
            return str(error)
        finally:
            self.rank.client.close_load(load)

    async def load(self, number: int, salt: str | None = None) -> str:
        return await asyncio.to_thread(self._load, number, salt)

    async def told(self) -> dict[str, str]:
        """Transfer id to tier, as a follower hears of all that there is."""
        assert self.agent is not None
        found = {}
        url = f"{self.agent.admin_url}/cache/events"
        async with aiohttp.ClientSession() as http, http.get(url) as lines:
            async for line in lines.content:
                news = msgspec.json.decode(line, type=CacheNews)  # type: ignore[arg-type]
                if isinstance(news, Stored):
                    found[news.transfer_id] = news.tier
                if isinstance(news, Whole):
                    return found
        raise AssertionError("the stream ended")


async def settled(condition: Any) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - other threads set no event
            await asyncio.sleep(0.005)


@pytest.fixture
async def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    monkeypatch.setattr(spill_directory, "file_system", lambda path: "ext4")
    stage = Stage(tmp_path)
    yield stage
    await stage.end()
    assert not [t for t in threading.enumerate() if t.name.startswith("prfaas")]


async def test_another_life_of_the_agent_has_it_still(stage: Stage) -> None:
    await stage.begin()
    await stage.keep(1)
    await stage.keep(2)
    assert await stage.told() == {"t1": "memory", "t2": "memory"}
    await stage.end()
    await stage.begin()
    await settled(lambda: len(stage.on_disk) == 2)
    assert await stage.told() == {"t1": "disk", "t2": "disk"}
    assert not stage.pool.cached
    assert await stage.load(1) == "ok"
    assert await stage.told() == {"t1": "memory", "t2": "disk"}
    counters = stage.pool.counters
    assert (counters.spill_found, counters.spill_read, counters.loads_ready) == (2, 1, 1)
    assert await stage.load(1) == "ok"
    assert stage.pool.counters.spill_read == 1, "it is in memory now"


async def test_what_memory_evicts_comes_back_from_disk(stage: Stage) -> None:
    """Memory holds three of them, the disk all."""
    await stage.begin()
    for number in range(1, 8):
        await stage.keep(number)
    tiers = await stage.told()
    assert list(tiers) == [f"t{n}" for n in (5, 6, 7, 1, 2, 3, 4)]
    assert [tiers[f"t{n}"] for n in (1, 4, 5, 7)] == ["disk", "disk", "memory", "memory"]
    for number in (*range(1, 8), 1, 7):
        assert await stage.load(number) == "ok"
    assert await stage.load(9) == "tokens up to 16 are not cached here"
    assert await stage.load(1, salt="another tenant's") == "tokens up to 16 are not cached here"


async def test_a_flipped_byte_is_a_recompute(stage: Stage) -> None:
    await stage.begin()
    await stage.keep(1)
    await stage.end()
    (file,) = stage.files
    raw = bytearray(file.read_bytes())
    raw[-SLOT] ^= 1
    file.write_bytes(raw)
    await stage.begin()
    await settled(lambda: stage.on_disk)
    assert "are not those that were written" in await stage.load(1)
    await settled(lambda: not stage.files)
    assert await stage.told() == {}
    assert stage.pool.slots.held == stage.pool.slots.cached == 0


async def test_the_disk_is_bounded(stage: Stage) -> None:
    stage.size = "1 MiB"  # three files
    await stage.begin()
    for number in range(1, 8):
        await stage.keep(number)
    await settled(lambda: len(stage.files) == 3)
    assert sum(file.stat().st_size for file in stage.files) <= 1 << 20
    await stage.end()
    stage.size = "400 KiB"
    await stage.begin(engine=False)
    await settled(lambda: len(stage.files) == 1)
    assert {entry.transfer_id for entry in stage.on_disk} == {"t7"}


async def test_a_full_disk_is_no_bodys_problem(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, full = os.pwrite, threading.Event()

    def pwrite(file: int, view: memoryview, at: int) -> int:
        if full.is_set():
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, view, at)

    monkeypatch.setattr(spill_files.os, "pwrite", pwrite)
    await stage.begin()
    await stage.keep(1)
    full.set()
    await asyncio.to_thread(stage._keep, 2, None)
    await settled(lambda: stage.pool.counters.spill_write_failures)
    assert [await stage.load(number) for number in (1, 2)] == ["ok", "ok"]
    assert [entry.transfer_id for entry in stage.on_disk] == ["t1"]
    await settled(lambda: not stage.pool.slots.held)


async def test_a_disk_that_hangs_holds_up_nothing_else(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = threading.Event()
    real = os.pwrite

    def pwrite(file: int, view: memoryview, at: int) -> int:
        hangs.wait(WAIT_S)
        return real(file, view, at)

    monkeypatch.setattr(spill_files.os, "pwrite", pwrite)
    await stage.begin()
    try:
        for number in range(1, 9):
            await asyncio.to_thread(stage._keep, number, None)
            assert await stage.load(number) == "ok"
        # One is being written; what memory has evicted meanwhile is not written any more.
        assert stage.pool.counters.spill_missed
        await settled(lambda: stage.pool.slots.held == -(-SIZE // SLOT))
    finally:
        hangs.set()
    await settled(lambda: stage.pool.counters.spill_written >= 3)


def reading_hangs(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Until what is returned is set."""
    hangs, real = threading.Event(), os.preadv

    def preadv(file: int, views: Any, at: int) -> int:
        hangs.wait(WAIT_S)
        return real(file, views, at)

    monkeypatch.setattr(spill_files.os, "preadv", preadv)
    return hangs


async def test_where_the_disk_is_too_slow_the_engine_computes(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.begin()
    await stage.keep(1)
    await stage.end()
    hangs = reading_hangs(monkeypatch)
    monkeypatch.setattr("prfaas.pool.loads.LEAST_S", 0.0)
    await stage.begin()
    try:
        await settled(lambda: stage.on_disk)
        assert await stage.load(1) == "the disk is too slow"
        stage.agent.driver.check_integrity()  # type: ignore[union-attr]
    finally:
        hangs.set()
    await settled(lambda: stage.pool.counters.spill_read)
    assert await stage.load(1) == "ok"


async def test_an_engine_that_dies_while_it_waits_leaves_nothing_behind(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.begin()
    await stage.keep(1)
    await stage.end()
    hangs = reading_hangs(monkeypatch)
    await stage.begin()
    try:
        await settled(lambda: stage.on_disk)
        assert stage.rank is not None
        client = stage.rank.client
        load = client.open_load(
            local_tokens=0, to_token=16, block_tokens=16, names=prefix(1).digests
        )
        await settled(lambda: stage.pool.slots.held)
        await asyncio.to_thread(client.close)
        client.close_load(load)
        stage.rank = None
        await settled(lambda: not stage.pool.engines)
    finally:
        hangs.set()
    await settled(lambda: stage.pool.counters.spill_read)
    assert stage.pool.slots.held == 0
    assert [entry.transfer_id for entry in stage.pool.cached] == ["t1"]


async def test_two_agents_do_not_share_a_directory(stage: Stage) -> None:
    await stage.begin(engine=False)
    other = Stage(stage.run)
    first, stage.run = stage.run, stage.run / "other"
    stage.run.mkdir()
    deployment = msgspec.structs.replace(
        stage.agent.settings,
        socket=stage.run / "w",  # type: ignore[union-attr]
    )
    with pytest.raises(ConfigError, match="in use by another agent"):
        await Agent(deployment).start()
    stage.run = first
    assert other.agent is None


async def test_what_is_on_disk_is_copied_to_another_agent_as_what_is_in_memory_is(
    stage: Stage,
) -> None:
    """As far as its link: nobody is there. A transfer that is being read is not failed yet."""
    await stage.begin()
    await stage.keep(1)
    await stage.end()
    await stage.begin(engine=False)
    await settled(lambda: stage.on_disk)
    assert stage.agent is not None
    driver = stage.agent.driver
    driver.handle(CopyRequested("t1", "c1", "nobody", 60.0))
    driver.handle(CopyRequested("t9", "c2", "nobody", 60.0))
    await settled(lambda: driver.transfer("c1", ranks=1)[1])
    sent = [driver.transfer(name, ranks=1)[0].sent for name in ("c1", "c2")]
    assert [one and one.reason for one in sent] == [
        "no link to agent 'nobody' in the deployment",
        "transfer t9 is not cached here",
    ]
    assert stage.pool.counters.spill_read == 1
    await settled(lambda: not stage.pool.slots.held)


async def test_operators_see_it(stage: Stage) -> None:
    await stage.begin()
    await stage.keep(1)
    assert stage.agent is not None
    async with aiohttp.ClientSession() as http:
        async with http.get(f"{stage.agent.admin_url}/cache") as answer:
            disk = msgspec.json.decode(await answer.read())["disk"]
        async with http.get(f"{stage.agent.admin_url}/metrics") as answer:
            page = (await answer.read()).decode()
    (file,) = stage.files
    assert (disk["size_bytes"], disk["used_bytes"]) == (64 << 20, file.stat().st_size)
    assert disk["entries"][0]["in_memory"] is True
    assert f'prfaas_pool_cache_used_bytes{{tier="disk"}} {file.stat().st_size}.0' in page
    assert 'prfaas_pool_spill_parts_total{outcome="written"} 1.0' in page


def test_evicted_is_of_every_tier() -> None:
    """News of earlier releases have no tier: what they tell of lies in memory."""
    old = b'{"type":"stored","transfer_id":"t","rank":0,"epoch":1,"layout":"l","prefix":' + (
        msgspec.json.encode(prefix(1)) + b"}"
    )
    news = msgspec.json.decode(old, type=CacheNews)  # type: ignore[arg-type]
    assert isinstance(news, Stored)
    assert news.tier == "memory"
    assert "tier" not in Evicted.__struct_fields__
