"""What is missed again and again is copied there, and takes what is left over."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from tests.unit.gateway.test_pools import KEY, TOKENS, stored
from tests.unit.gateway.test_pulls import EAST, PROMPT, W1, W2, Agent, costs

from prfaas.core.cache_copies import YIELDS, CopyCached
from prfaas.gateway.agent_client import CacheSizes
from prfaas.gateway.hot_copies import HotCopies
from prfaas.gateway.pools import Held, Pools, Pull
from prfaas.gateway.pulls import PullCosts, Puller
from prfaas.index.keys import KnownTokens
from prfaas.policies.learned_fetches import LearnedFetches
from prfaas.testing.mock_deployment import until

IDS = KnownTokens(TOKENS)


class Sized(Agent):
    """Also says how large its cache is, and how urgent a copy is."""

    def __init__(self, size: int = 10_000) -> None:
        super().__init__()
        self.size = size
        self.priorities: list[int] = []

    async def cache_sizes(self) -> CacheSizes:
        return CacheSizes(self.size, 0)

    async def send_copy(self, copy_id: str, wanted: CopyCached) -> None:
        self.priorities.append(wanted.priority)
        await super().send_copy(copy_id, wanted)


class Line:
    """Stands for `PullCosts`: one line, busy or not."""

    def __init__(self) -> None:
        self.free = True

    def idle(self, pull: Pull) -> bool:
        return self.free


class Stage:
    def __init__(self, *, size: int = 10_000, gateways: int = 1) -> None:
        pools = Pools(KEY, max_blocks=1000, most_holders=4)
        pools.take("west", stored("first", 20, stands_at=20))
        self.west, self.there, self.line = Sized(), Sized(size), Line()
        agents = cast("Any", {"west": self.west, "there": self.there})
        names = iter(range(100))
        puller = Puller(
            pools, agents, new_id=lambda: f"copy-{next(names)}", fetches=LearnedFetches()
        )
        self.hot = HotCopies(puller, cast("PullCosts", self.line), agents, lambda: gateways)
        holder = next(iter(pools._holdings))
        self.pull = Pull(holder, "there", 0, 20, 5.0)

    def miss(self, times: int, *, kv_bytes: float = 500.0) -> None:
        for _ in range(times):
            self.hot.missed(self.pull, IDS, kv_bytes=kv_bytes, ranks=1)


async def test_what_was_missed_often_is_copied_once_behind_all_else() -> None:
    stage = Stage()
    stage.miss(2)
    await stage.hot.look()
    assert stage.hot.made == 0
    stage.miss(5)
    await stage.hot.look()
    await stage.hot.look()
    assert (stage.hot.made, stage.hot.failed) == (1, 0)
    assert stage.west.priorities == [YIELDS]


async def test_a_line_that_carries_something_is_left_alone() -> None:
    stage = Stage()
    stage.line.free = False
    stage.miss(3)
    await stage.hot.look()
    assert stage.west.priorities == []
    stage.line.free = True
    await stage.hot.look()
    assert stage.hot.made == 1


async def test_copies_are_a_bounded_share_of_a_cache() -> None:
    stage = Stage(size=4_000)  # of which a tenth
    stage.miss(3)
    await stage.hot.look()
    assert stage.west.priorities == []
    assert (stage.hot.made, stage.hot.failed) == (0, 0)


@pytest.mark.parametrize(("gateways", "made"), [(1, 1), (2, 1), (3, 0)])
async def test_several_gateways_share_the_bound(gateways: int, made: int) -> None:
    """Each sees its own misses, and knows nothing of what the others bring."""
    stage = Stage(size=10_000, gateways=gateways)
    stage.miss(3, kv_bytes=500.0)
    await stage.hot.look()
    assert (stage.hot.made, stage.hot.failed) == (made, 0)


async def test_what_is_there_no_more_is_not_copied() -> None:
    stage = Stage()
    stage.hot._puller._pools.lost("west")
    stage.miss(5)
    await stage.hot.look()
    assert (stage.hot.made, stage.hot.failed) == (0, 1)
    assert stage.west.priorities == []


async def test_it_runs_beside() -> None:
    stage = Stage()
    stage.miss(3)
    task = asyncio.create_task(stage.hot.run())
    await until(lambda: stage.hot.made == 1)
    task.cancel()


def test_what_an_agent_lacks_is_looked_for_where_a_line_leads_from() -> None:
    # At 1 MB/s nothing is pulled, and so it is missed.
    slow = costs(lan=1e6)
    assert slow.best(PROMPT, "d2", "l", 0, pools=Held({W1: 3200})) is None
    found = slow.missed(PROMPT, "d2", "l", pools={W1: 3200, W2: 800})
    assert found is not None
    assert (found.source, found.target, found.from_token, found.to_token) == (
        W1, "w2-agent", 800, 3200,
    )  # fmt: skip
    assert slow.idle(found)
    assert slow.kv_bytes(found) == pytest.approx(3.2e6)
    assert slow.missed(PROMPT, "d2", "l", pools={W1: 800, W2: 800}) is None
    assert slow.missed(PROMPT, "e0", "l", pools={W1: 3200, EAST: 0}) is None  # no line that way
