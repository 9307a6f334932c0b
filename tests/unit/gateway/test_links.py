"""Agents' link states as events."""

from __future__ import annotations

import asyncio
import contextlib
import json

import msgspec
import pytest

from prfaas.core.deployment import parse_deployment
from prfaas.core.errors import LinkError
from prfaas.gateway.agent_client import read_answer
from prfaas.gateway.endpoints import resolve
from prfaas.gateway.links import LineStates, link_event, watch_links
from prfaas.link.api import LinkState, LinkStates
from prfaas.scheduler.events import LinkStateChanged
from prfaas.testing.mock_deployment import MockDeployment, clear_line, until


def state(**changed: float) -> LinkState:
    fields = {f: getattr(clear_line("west-agent"), f) for f in LinkState.__struct_fields__}
    return LinkState(**{**fields, **changed})


def test_link_states_become_events() -> None:
    assert link_event("east", "west", [state()]) == LinkStateChanged(
        "east", "west", up=True, rate_bytes_per_s=25e6, rtt_s=0.03
    )
    saturated = link_event(
        "east", "west", [state(congestion=0.91, goodput_bytes_per_s=12.34e6, queued_bytes=1)]
    )
    assert saturated.rate_bytes_per_s == 12e6
    assert link_event("east", "west", [state(goodput_bytes_per_s=12e6)]).rate_bytes_per_s == 25e6
    unlimited = link_event("east", "west", [state(limit_bytes_per_s=None)])  # type: ignore[arg-type]
    assert unlimited.rate_bytes_per_s is None
    assert not link_event("east", "west", [state(connections=0)]).up
    assert not link_event("east", "west", []).up


async def test_link_watch_tells_changes_only_and_a_lost_agent_is_a_lost_line() -> None:
    mock = MockDeployment()
    told: list[LinkStateChanged] = []
    async with mock.running():
        gateway = mock.gateway
        await mock.ready()
        endpoints = resolve(mock.deployment(), source="mock")
        lines = LineStates(endpoints, on_change=told.append, on_pair=lambda *_: None)
        running = asyncio.create_task(watch_links(gateway.agents["east-agent"], lines))
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


TWO_BY_TWO = """
clusters:
  - name: east
    kind: prfaas
    machines:
      - {name: e1, agent: {name: e1a, admin: "h:1"}, engines: [{name: p1, role: prefill, url: "http://h:8"}]}
      - {name: e2, agent: {name: e2a, admin: "h:2"}, engines: [{name: p2, role: prefill, url: "http://h:7"}]}
  - name: west
    kind: pd
    machines:
      - {name: w1, agent: {name: w1a, admin: "h:3"}, engines: [{name: q1, role: prefill, url: "http://h:6"}]}
      - {name: w2, agent: {name: w2a, admin: "h:4"}, engines: [{name: d2, role: decode, url: "http://h:9"}]}
links: [{from: east, to: west, rate: 100 MB/s}]
"""


def test_links_of_a_line_are_summed_and_one_that_is_left_keeps_it_up() -> None:
    told: list[LinkStateChanged] = []
    pairs: list[tuple[str, str, bool]] = []
    endpoints = resolve(parse_deployment(TWO_BY_TWO, source="test"), source="test")
    lines = LineStates(endpoints, on_change=told.append, on_pair=lambda *pair: pairs.append(pair))

    def links(*peers: str) -> list[LinkState]:
        quarter = {"limit_bytes_per_s": 25e6, "goodput_bytes_per_s": 10e6, "utilisation": 0.4}
        return [state(peer=peer, **quarter) for peer in peers]  # type: ignore[arg-type]

    unheard = ["no KV can travel from east to west", "no KV can travel between machines of west"]
    assert lines.warnings() == unheard
    lines.take("e1a", [*links("w1a", "w2a"), state(peer="stranger")])  # type: ignore[arg-type]
    assert lines.warnings() == unheard[1:]
    lines.take("e2a", links("w1a", "w2a"))
    lines.take("w1a", links("w2a"))
    assert [(e.source, e.rate_bytes_per_s, e.utilisation) for e in told] == [
        ("east", 50e6, 0.4), ("east", 100e6, 0.4), ("west", 25e6, 0.4),
    ]  # fmt: skip
    assert pairs == []
    assert lines.warnings() == []
    lines.lost("e1a", "gone")
    assert lines.warnings() == [], "another machine still sends"
    assert (told[-1].up, told[-1].rate_bytes_per_s) == (True, 50e6)
    assert pairs == [("e1", "w1", False), ("e1", "w2", False)]
    lines.take("e1a", links("w1a", "w2a"))
    assert pairs[2:] == [("e1", "w1", True), ("e1", "w2", True)]
    lines.lost("e1a", "gone")
    lines.lost("e2a", "gone")
    assert (told[-1].source, told[-1].up) == ("east", False)
    assert lines.warnings() == unheard[:1]


def test_a_line_that_is_full_for_one_is_full_for_all() -> None:
    full = state(congestion=0.9, goodput_bytes_per_s=30e6, limit_bytes_per_s=50e6, queued_bytes=9)
    idle = state(congestion=0.0, goodput_bytes_per_s=1e6, limit_bytes_per_s=50e6)
    event = link_event("east", "west", [full, idle])
    assert (event.rate_bytes_per_s, event.congestion, event.utilisation) == (31e6, 0.9, 0.3)


def test_an_idle_line_says_nothing_of_what_it_carries() -> None:
    """Its goodput sinks towards nothing while its last round trips may still look congested."""
    idle = state(congestion=0.9, goodput_bytes_per_s=1e-22, limit_bytes_per_s=50e6, queued_bytes=0)
    assert link_event("east", "west", [idle]).rate_bytes_per_s == 50e6


def test_a_line_that_stands_still_is_tried_again() -> None:
    still = state(congestion=0.9, goodput_bytes_per_s=1e-22, limit_bytes_per_s=50e6, queued_bytes=9)
    assert link_event("east", "west", [still]).rate_bytes_per_s == 1000


@pytest.mark.parametrize("field", ["retransmits", "queued_bytes", "acknowledged_bytes_total"])
@pytest.mark.parametrize("value", [-1, 10**400])
def test_counts_of_links_are_such(field: str, value: int) -> None:
    said = {**msgspec.to_builtins(state()), field: value}
    with pytest.raises(LinkError, match="unreadable answer"):
        read_answer("a", json.dumps({"links": [said]}).encode(), LinkStates)


def test_no_line_is_slower_than_one_that_stands_still() -> None:
    """A rise is believed little by little: from next to nothing it would never come back."""
    assert link_event("a", "b", [state(limit_bytes_per_s=1e-300)]).rate_bytes_per_s == 1e3
