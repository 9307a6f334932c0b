"""Sparse traffic: an engine that looked slow gets work again, one that is slow gets little."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prfaas.core.deployment import SchedulerConfig
from prfaas.policies.registry import make_policy
from prfaas.scheduler import commands as c
from prfaas.scheduler import events as e
from prfaas.testing.scheduler_driver import LONG, Driver, topology

POLICIES = ["auto", "earliest", "elastic"]


class Traffic:
    """Prompts of one length, ``at_once`` of them every ``every_s``, on engines that prefill one
    after the other. ``took_s``: engine -> seconds of each."""

    def __init__(
        self,
        policy: str,
        took_s: Callable[[str], float],
        *,
        every_s: float,
        prefills: int = 1,
        at_once: int = 1,
    ) -> None:
        topo = topology(prefills=prefills, capacity=64)
        self.drive = Driver(topo, policy=make_policy(SchedulerConfig(policy=policy)))
        self._took_s, self._every_s, self._at_once = took_s, every_s, at_once
        self._events: list[tuple[float, int, e.AnyEvent]] = []
        self._number = count()
        self._free: dict[str, float] = {}
        self.on: list[str] = []
        """The engine that prefilled each."""

    def have_taken(self, engine: str, seconds: float) -> None:
        """Ten prefills have."""
        for _ in range(10):
            self.drive.learned.prefill_seen(engine, LONG, seconds)

    def send(self, prompts: int) -> list[str]:
        """The engine that prefilled each of so many."""
        for number in range(prompts):
            at = number // self._at_once * self._every_s
            self._soon(at, e.RequestArrived(f"r{number}", LONG, 10))
        while self._events:
            at, _, event = heapq.heappop(self._events)
            for command in self.drive(event, at=at):
                self._carry_out(command, at)
        return self.on

    def _carry_out(self, command: c.AnyCommand, now: float) -> None:
        if isinstance(command, c.StartPrefill):
            end, name = self._prefilled_at(command.engine, now), command.request_id
            self._soon(end, e.PrefillCompleted(name, command.attempt))
            self._soon(end, e.TransferCompleted(name, command.attempt))
        elif isinstance(command, c.StartDecode):
            direct = command.transfer_id is None
            end = self._prefilled_at(command.engine, now) if direct else now
            self._soon(end, e.FirstToken(command.request_id, command.attempt))
            self._soon(end, e.RequestCompleted(command.request_id, command.attempt, 10))

    def _prefilled_at(self, engine: str, now: float) -> float:
        self.on.append(engine)
        end = self._free[engine] = max(now, self._free.get(engine, now)) + self._took_s(engine)
        return end

    def _soon(self, at: float, event: e.AnyEvent) -> None:
        heapq.heappush(self._events, (at, next(self._number), event))


@pytest.mark.parametrize("policy", POLICIES)
def test_a_cluster_that_looked_slow_gets_work_again_within_half_an_hour(policy: str) -> None:
    """East is twice as fast as the west, and was ten times slower in a bad moment."""
    traffic = Traffic(policy, lambda engine: 0.5 if engine == "east-1" else 1.0, every_s=60.0)
    traffic.have_taken("east-1", 5.0)
    traffic.have_taken("west-p0", 1.0)
    on = traffic.send(120)
    assert "east-1" not in on[:10]
    assert "east-1" in on[:30]
    assert on[60:].count("east-1") > 30, "and the first that is seen of it is believed"


def test_an_engine_that_looked_slow_is_soon_what_others_of_its_cluster_are() -> None:
    """Two prompts come together: while one is at work the other engine is wanted."""
    traffic = Traffic("earliest", lambda engine: 9.0, every_s=60.0, prefills=2, at_once=2)
    traffic.have_taken("east-1", 60.0)
    traffic.have_taken("west-p0", 90.0)
    traffic.have_taken("west-p1", 9.0)
    on = traffic.send(120)
    assert set(on[:20]) == {"west-p1"}
    assert "west-p0" in on[:60]
    assert on[60:].count("west-p0") > 25


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(POLICIES),
    st.sampled_from(["east-1", "west"]),
    st.floats(1.5, 100.0),
    st.sampled_from([1.0, 10.0, 60.0, 600.0, 86_400.0]),
    st.integers(1, 3),
)
def test_one_that_is_slow_gets_no_second_of_ten_prompts(
    policy: str, slow: str, factor: float, every_s: float, prefills: int
) -> None:
    """However slow, however little traffic, and wherever it is."""

    def took_s(engine: str) -> float:
        return 0.5 * factor if engine.startswith(slow) else 0.5

    traffic = Traffic(policy, took_s, every_s=every_s, prefills=prefills)
    for engine in ("east-1", *(f"west-p{number}" for number in range(prefills))):
        traffic.have_taken(engine, took_s(engine))
    tried = [n for n, engine in enumerate(traffic.send(200)) if engine.startswith(slow)]
    assert all(after - before >= max(10, 600 / every_s) for before, after in pairwise(tried))
