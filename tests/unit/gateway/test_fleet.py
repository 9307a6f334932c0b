"""Small parts: addresses, link states, usable prefixes, engine and agent answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import msgspec
import pytest

from prfaas.gateway.endpoints import resolve
from prfaas.gateway.fleet import Fleet
from prfaas.gateway.layouts import Layouts, replaced
from prfaas.gateway.registered_ranks import RegisteredRank
from prfaas.testing.mock_deployment import MockDeployment, mock_layout, until


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ([(0, 10), (1, 11)], [(0, 10)], set()),
        ([(0, 10)], [(0, 10), (1, 11)], set()),
        ([(0, 10), (1, 11)], [(0, 20)], {"e"}),
        ([(0, 20)], [(0, 20), (1, 21)], set()),
    ],
)
def test_ranks_that_register_one_by_one_are_no_restart(
    before: list[tuple[int, int]], now: list[tuple[int, int]], expected: set[str]
) -> None:
    def registered(ranks: list[tuple[int, int]]) -> list[RegisteredRank]:
        layout = msgspec.structs.replace(mock_layout(), tp_size=2)
        return [
            RegisteredRank("e", pid, msgspec.structs.replace(layout, tp_rank=rank))
            for rank, pid in ranks
        ]

    assert replaced(registered(before), registered(now)) == expected


async def test_an_engine_that_was_replaced_is_noticed_without_ever_looking_down() -> None:
    mock = MockDeployment()
    told: list[str] = []
    async with mock.running():
        await mock.ready()
        gateway = mock.gateway
        endpoints = resolve(mock.deployment(), source="mock")
        fleet = Fleet(
            endpoints,
            gateway.engines,
            gateway.agents,
            on_up=lambda name: told.append(f"{name} up"),
            on_suspected=lambda name, why: told.append(f"{name} suspected"),
            on_down=lambda name, why: told.append(f"{name}: {why}"),
            layouts=Layouts(endpoints, on_known=lambda *_: None, on_pairing=lambda *_: None),
        )
        async with running(fleet.watch_agent("east-agent"), fleet.watch_engine("e1")):
            await until(lambda: told == ["e1 up"])
            agent = mock.agents["east-agent"]
            (rank,) = agent.ranks
            agent.register("e1", rank["layout"], pid=99)
            await until(lambda: len(told) == 3)
    assert told == ["e1 up", "e1: it was restarted", "e1 up"]


async def test_an_agent_that_refuses_connections_gets_no_hand_offs_from_then_on() -> None:
    mock = MockDeployment()
    async with mock.running():
        await mock.ready()
        fleet = mock.gateway.fleet
        assert fleet.takes_handoffs("d1")
        assert fleet.warnings() == []
        await mock.agents["west-agent"].stop()
        await until(lambda: bool(fleet.warnings()))
        assert not fleet.takes_handoffs("d1")


@contextlib.asynccontextmanager
async def running(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(part) for part in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
