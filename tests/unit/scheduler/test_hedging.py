"""A request may be at two decode engines: whoever begins first answers; the books stay right."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from prfaas.core.deployment import SchedulerConfig
from prfaas.models.kv_size import KvSize
from prfaas.policies.api import Route
from prfaas.policies.registry import make_policy
from prfaas.scheduler import commands as c
from prfaas.scheduler import events as e
from prfaas.scheduler.journal import CostInputs, JournalOpened
from prfaas.scheduler.lifecycle import State
from prfaas.scheduler.replay import scheduler_from
from prfaas.scheduler.topology import ClusterSpec, EngineSpec, Topology


class Harness:
    """One cluster of decode engines d1, d2, with a slot each."""

    def __init__(self, engines: tuple[str, ...] = ("d1", "d2")) -> None:
        config = SchedulerConfig(policy="homogeneous")
        make_policy(config)
        topology = Topology(
            (ClusterSpec("west", "pd"),),
            tuple(EngineSpec(name, "west", "decode", max_requests=1) for name in engines),
            (),
            alignment_tokens=4,
        )
        self.scheduler = scheduler_from(
            JournalOpened(
                driver="simulator",
                unix_time=None,
                topology=topology,
                scheduler=config,
                costs=CostInputs(kv_size=KvSize(0.0, 1.0)),
            )
        )
        self.now = 0.0

    def __call__(self, event: e.AnyEvent, *, at: float | None = None) -> list[c.AnyCommand]:
        self.now = self.now if at is None else at
        commands = self.scheduler.handle(event, now=self.now)
        self.scheduler.check_integrity()
        return [command for command in commands if not isinstance(command, c.SetTimer)]

    def hedged(self) -> None:
        """ "r" is at d1 (attempt 1) and d2 (attempt 2)."""
        (first,) = self(e.RequestArrived("r", 3, 9, deadline=8.0))
        assert isinstance(first, c.StartDecode)
        (second,) = self(e.TimerFired(), at=4.0)
        assert isinstance(second, c.StartDecode)
        assert (first.engine, second.engine, second.attempt) == ("d1", "d2", 2)
        assert second.route is Route.DIRECT

    def running(self) -> dict[str, int]:
        return {name: view.running for name, view in self.scheduler.view.engines.items()}


def cancels(*commands: c.AnyCommand) -> list[tuple[str, int]]:
    assert all(isinstance(command, c.CancelDecode) for command in commands)
    return [(command.engine, command.attempt) for command in commands]  # type: ignore[union-attr]


def test_the_first_begins_after_all() -> None:
    h = Harness()
    h.hedged()
    assert h.running() == {"d1": 1, "d2": 1}
    assert cancels(*h(e.FirstToken("r", 1), at=5.0)) == [("d2", 2)]
    assert h.running() == {"d1": 1, "d2": 0}
    assert h.scheduler.state("r") is State.STREAMING
    assert h(e.FirstToken("r", 2)) == []
    assert h(e.RequestCompleted("r", 1)) == []
    assert h.running() == {"d1": 0, "d2": 0}


def test_the_second_begins_and_the_slot_of_the_first_is_given_on() -> None:
    h = Harness()
    h.hedged()
    h(e.RequestArrived("next", 3, 9))
    cancel, start = h(e.FirstToken("r", 2), at=5.0)
    assert cancels(cancel) == [("d1", 1)]
    assert isinstance(start, c.StartDecode)
    assert (start.request_id, start.engine) == ("next", "d1")
    assert h(e.RequestCompleted("r", 2)) == []
    assert h.scheduler.state("r") is None


@pytest.mark.parametrize(
    ("loss", "left"),
    [
        (lambda: e.DecodeFailed("r", 1, "boom"), 2),
        (lambda: e.DecodeFailed("r", 2, "boom"), 1),
        (lambda: e.EngineDown("d1", "gone"), 2),
        (lambda: e.EngineDown("d2", "gone"), 1),
    ],
)
def test_the_loss_of_one_leaves_the_other(loss: Callable[[], e.AnyEvent], left: int) -> None:
    h = Harness()
    h.hedged()
    h(loss(), at=5.0)
    assert h.scheduler.state("r") is State.DECODING
    h(e.FirstToken("r", left))
    assert h(e.RequestCompleted("r", left)) == []
    assert h.running() == {"d1": 0, "d2": 0}


def test_a_third_try_has_a_number_of_its_own() -> None:
    h = Harness(("d1", "d2", "d3"))
    h.hedged()
    h(e.DecodeFailed("r", 2, "boom"))
    commands = h(e.DecodeFailed("r", 1, "boom"))
    assert isinstance(commands[-1], c.StartDecode)
    assert (commands[-1].engine, commands[-1].attempt) == ("d3", 3)


@pytest.mark.parametrize("end", [e.RequestCancelled("r"), e.TimerFired()])
def test_an_end_cancels_both(end: e.AnyEvent) -> None:
    h = Harness()
    h.hedged()
    commands = h(end, at=8.0)
    ends = [command for command in commands if isinstance(command, c.CancelDecode)]
    assert sorted(cancels(*ends)) == [("d1", 1), ("d2", 2)]
    assert h.running() == {"d1": 0, "d2": 0}


def test_where_no_other_has_a_place_the_first_is_waited_for() -> None:
    h = Harness()
    h(e.RequestArrived("other", 3, 9))
    h(e.RequestArrived("r", 3, 9, deadline=8.0))
    assert h(e.TimerFired(), at=4.0) == []
    h(e.FirstToken("other", 1))
    h(e.RequestCompleted("other", 1), at=5.0)
    (second,) = h(e.TimerFired(), at=6.0)
    assert isinstance(second, c.StartDecode)
    assert second.attempt == 2


def test_two_engines_lost_at_once_are_two() -> None:
    h = Harness(("d1", "d2", "d3"))
    h.hedged()
    h(e.DecodeFailed("r", 1, "reset", e.Fault.LOST))
    failed = h(e.DecodeFailed("r", 2, "reset", e.Fault.LOST))[-1]
    assert isinstance(failed, c.FailRequest)
    assert "2 engines went away" in failed.message
