"""Agents' link states as events."""

from __future__ import annotations

import asyncio
import contextlib

from prfaas.gateway.endpoints import resolve
from prfaas.gateway.links import LinkWatch, link_event
from prfaas.link.api import LinkState
from prfaas.scheduler.events import LinkStateChanged
from prfaas.testing.mock_deployment import MockDeployment, clear_line, until


def state(**changed: float) -> LinkState:
    fields = {f: getattr(clear_line("west-agent"), f) for f in LinkState.__struct_fields__}
    return LinkState(**{**fields, **changed})


def test_link_states_become_events() -> None:
    assert link_event("east", "west", state()) == LinkStateChanged(
        "east", "west", up=True, rate_bytes_per_s=25e6, rtt_s=0.03
    )
    saturated = link_event("east", "west", state(congestion=0.91, goodput_bytes_per_s=12.34e6))
    assert saturated.rate_bytes_per_s == 12e6
    assert link_event("east", "west", state(goodput_bytes_per_s=12e6)).rate_bytes_per_s == 25e6
    unlimited = link_event("east", "west", state(limit_bytes_per_s=None))  # type: ignore[arg-type]
    assert unlimited.rate_bytes_per_s is None
    assert not link_event("east", "west", state(connections=0)).up


async def test_link_watch_tells_changes_only_and_a_lost_agent_is_a_lost_line() -> None:
    mock = MockDeployment()
    told: list[LinkStateChanged] = []
    async with mock.running():
        gateway = mock.gateway
        await mock.ready()
        endpoints = resolve(mock.deployment(), source="mock")
        watch = LinkWatch(endpoints.clusters[0], endpoints, gateway._agents["east"], told.append)
        running = asyncio.create_task(watch.run())
        await until(lambda: len(told) == 1)
        mock.agents["east-agent"].links = [state(utilisation=0.52), state(utilisation=0.53)]
        await until(lambda: len(told) == 2)
        await mock.agents["east-agent"].stop()
        await until(lambda: len(told) == 3)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    assert [e.up for e in told] == [True, True, False]
    assert told[1].utilisation == 0.5
