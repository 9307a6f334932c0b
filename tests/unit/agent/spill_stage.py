"""A whole agent with a disk, which ends and begins anew, for tests."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from prfaas.agent.service import Agent
from prfaas.agent.settings import settings_for
from prfaas.core.cache_news import Alive, CacheNews, Stored, Whole
from prfaas.core.deployment import parse_deployment
from prfaas.core.errors import PrfaasError
from prfaas.core.prefixes import PromptPrefix, chain, root_digest, stretch
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

    async def disk_rate(self) -> float:
        """What the first follower that is told is told."""
        assert self.agent is not None
        url = f"{self.agent.admin_url}/cache/events"
        async with aiohttp.ClientSession() as http, http.get(url) as lines:
            async for line in lines.content:
                news = msgspec.json.decode(line, type=CacheNews)  # type: ignore[arg-type]
                if isinstance(news, Alive) and news.disk_bytes_per_s is not None:
                    return news.disk_bytes_per_s
        raise AssertionError("the stream ended")


async def settled(condition: Any) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - other threads set no event
            await asyncio.sleep(0.005)
