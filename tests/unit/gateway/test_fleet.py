"""Small parts: addresses, link states, usable prefixes, engine and agent answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import msgspec
import pytest

from prfaas.core.layout import KvGroup, KvLayout, LayerLayout
from prfaas.core.pieces import Piece
from prfaas.gateway.agent_client import RegisteredRank
from prfaas.gateway.endpoints import resolve
from prfaas.gateway.fleet import Fleet, _replaced
from prfaas.testing.mock_deployment import BLOCK_TOKENS, MockDeployment, mock_layout, until


@pytest.mark.parametrize(
    ("before", "now", "replaced"),
    [
        ([(0, 10), (1, 11)], [(0, 10)], set()),
        ([(0, 10)], [(0, 10), (1, 11)], set()),
        ([(0, 10), (1, 11)], [(0, 20)], {"e"}),
        ([(0, 20)], [(0, 20), (1, 21)], set()),
    ],
)
def test_ranks_that_register_one_by_one_are_no_restart(
    before: list[tuple[int, int]], now: list[tuple[int, int]], replaced: set[str]
) -> None:
    def registered(ranks: list[tuple[int, int]]) -> list[RegisteredRank]:
        layout = msgspec.structs.replace(mock_layout(), tp_size=2)
        return [
            RegisteredRank("e", pid, msgspec.structs.replace(layout, tp_rank=rank))
            for rank, pid in ranks
        ]

    assert _replaced(registered(before), registered(now)) == replaced


async def test_an_engine_that_was_replaced_is_noticed_without_ever_looking_down() -> None:
    mock = MockDeployment()
    told: list[str] = []
    async with mock.running():
        await mock.ready()
        gateway = mock.gateway
        fleet = Fleet(
            resolve(mock.deployment(), source="mock"),
            gateway.engines,
            gateway._agents,
            on_up=lambda name: told.append(f"{name} up"),
            on_suspected=lambda name, why: told.append(f"{name} suspected"),
            on_down=lambda name, why: told.append(f"{name}: {why}"),
        )
        async with running(fleet.watch_agent("east-agent"), fleet.watch_engine("e1")):
            await until(lambda: told == ["e1 up"])
            agent = mock.agents["east-agent"]
            (rank,) = agent.ranks
            agent.register("e1", rank["layout"], pid=99)
            await until(lambda: len(told) == 3)
    assert told == ["e1 up", "e1: it was restarted", "e1 up"]


async def test_engines_that_differ_pair_where_it_can_be_converted() -> None:
    """The decode engine is told what it will read, and boundaries suit both engines' blocks."""
    mock = MockDeployment()
    async with mock.running():
        await mock.ready()
        fleet = mock.gateway.fleet
        assert (fleet.parts("e1"), fleet.source("e1", "d1")) == (1, None)
        assert fleet.alignment_tokens() == BLOCK_TOKENS
        for agent in mock.agents.values():
            for rank in agent.ranks:
                blocks = 3 * BLOCK_TOKENS if rank["engine"] == "d1" else BLOCK_TOKENS
                agent.register(rank["engine"], divided(tp_size=1, block_tokens=blocks))
        two = divided(tp_size=2, block_tokens=2 * BLOCK_TOKENS)
        mock.agents["east-agent"].register("e1", two)
        await until(lambda: fleet.parts("e1") == 2)
        await until(lambda: fleet.alignment_tokens() == 6 * BLOCK_TOKENS)
        assert fleet.mismatches == {}
        source = fleet.source("e1", "d1")
        assert source is not None
        assert KvLayout.unpacked(source) == two
        assert mock.gateway.requests.block_tokens == 6 * BLOCK_TOKENS


def divided(*, tp_size: int, block_tokens: int) -> KvLayout:
    """One layer of two heads, a byte each token."""
    heads = 2 // tp_size
    page_bytes = heads * block_tokens
    piece = Piece(
        offset=0,
        rows=1,
        row_stride=page_bytes,
        units=heads,
        unit_stride=block_tokens,
        cells=block_tokens,
        cell_stride=1,
        cell_bytes=1,
        total_units=2,
        cell_tokens=1,
    )
    layer = LayerLayout(
        name="l0",
        index=0,
        page_bytes=page_bytes,
        dtype="u8",
        shape=(page_bytes,),
        pieces=(piece,),
    )
    group = KvGroup(kind="full_attention", block_tokens=block_tokens, layers=(layer,))
    return KvLayout(model="mock-model", groups=(group,), tp_size=tp_size)


@contextlib.asynccontextmanager
async def running(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(part) for part in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
