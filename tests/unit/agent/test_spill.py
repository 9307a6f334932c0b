"""A whole agent with a disk: what it had cached is there after its end, right or not at all."""

from __future__ import annotations

import asyncio

import aiohttp
import msgspec
import pytest
from tests.unit.agent.spill_stage import SLOT, Stage, prefix, settled

from prfaas.agent import spill_port
from prfaas.agent.service import Agent
from prfaas.core.cache_news import CacheNews, Evicted, Stored
from prfaas.core.errors import ConfigError
from prfaas.pool.events import CopyRequested


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


async def test_gateways_are_told_how_fast_the_disk_is(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it was measured, in this life or at the begin of the next."""
    monkeypatch.setattr(spill_port, "CHUNK_BYTES", SLOT)  # of files so large
    await stage.begin()
    told = asyncio.create_task(stage.disk_rate())
    await stage.keep(1)
    assert await told > 0
    await stage.end()
    await stage.begin()
    assert await stage.disk_rate() > 0


def test_evicted_is_of_every_tier() -> None:
    """News of earlier releases have no tier: what they tell of lies in memory."""
    old = b'{"type":"stored","transfer_id":"t","rank":0,"epoch":1,"layout":"l","prefix":' + (
        msgspec.json.encode(prefix(1)) + b"}"
    )
    news = msgspec.json.decode(old, type=CacheNews)  # type: ignore[arg-type]
    assert isinstance(news, Stored)
    assert news.tier == "memory"
    assert "tier" not in Evicted.__struct_fields__
