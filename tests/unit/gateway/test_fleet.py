"""Small parts: addresses, link states, usable prefixes, engine and agent answers."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
import pytest

from prfaas.gateway.agent_client import RegisteredRank
from prfaas.gateway.endpoints import resolve
from prfaas.gateway.fleet import Fleet, _replaced
from prfaas.testing.mock_deployment import MockDeployment, mock_layout, until


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
    restarted: list[str] = []
    async with mock.running():
        await mock.ready()
        gateway = mock.gateway
        fleet = Fleet(
            resolve(mock.deployment(), source="mock"),
            gateway.engines,
            gateway._agents,
            on_up=lambda _: None,
            on_down=lambda _a, _b: None,
            on_restart=restarted.append,
        )
        watch = asyncio.create_task(fleet.watch_agent("east"))
        await until(lambda: fleet.ranks("e1") == 1 and bool(fleet._ranks))
        agent = mock.agents["east-agent"]
        (rank,) = agent.ranks
        agent.register("e1", rank["layout"], pid=99)
        await until(lambda: restarted == ["e1"])
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch
