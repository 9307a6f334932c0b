"""What waits is counted in tokens and sequences; the wait for a slot is learned while some do."""

from __future__ import annotations

import pytest

from prfaas.core.deployment import SchedulerConfig
from prfaas.models.kv_size import KvSize
from prfaas.scheduler import commands as c
from prfaas.scheduler import events as e
from prfaas.scheduler.journal import CostInputs, JournalOpened
from prfaas.scheduler.lifecycle import State
from prfaas.scheduler.queues import ANYBODY, Asker
from prfaas.scheduler.replay import scheduler_from
from prfaas.scheduler.scheduler import Scheduler
from prfaas.scheduler.topology import ClusterSpec, EngineSpec, Topology

TOKENS = 10


def make(*slots: int) -> Scheduler:
    """A scheduler over decode engines with so many slots."""
    topology = Topology(
        (ClusterSpec("west", "pd"),),
        tuple(EngineSpec(f"d{i}", "west", "decode", n) for i, n in enumerate(slots)),
        (),
        alignment_tokens=4,
    )
    return scheduler_from(
        JournalOpened(
            driver="simulator",
            unix_time=None,
            topology=topology,
            scheduler=SchedulerConfig(policy="homogeneous"),
            costs=CostInputs(kv_size=KvSize(0.0, 1.0)),
        )
    )


def arrive(
    scheduler: Scheduler,
    name: str,
    *,
    sequences: int = 1,
    at: float = 0.0,
    serves: tuple[str, ...] | None = None,
    whose: Asker = ANYBODY,
) -> list[str]:
    """Returns on which engine it was started, if it was."""
    event = e.RequestArrived(name, TOKENS, 1, sequences=sequences, serves=serves, **whose._asdict())
    commands = scheduler.handle(event, now=at)
    scheduler.check_integrity()
    return [command.engine for command in commands if isinstance(command, c.StartDecode)]


def end(scheduler: Scheduler, name: str, *, at: float = 0.0) -> list[str]:
    """Returns which request was started instead."""
    commands = scheduler.handle(e.RequestCompleted(name, 1), now=at)
    scheduler.check_integrity()
    return [command.request_id for command in commands if isinstance(command, c.StartDecode)]


def test_sequences_take_slots_not_bodies() -> None:
    scheduler = make(8)
    assert arrive(scheduler, "eight", sequences=8) == ["d0"]
    assert scheduler.view.engines["d0"].running == 8
    assert arrive(scheduler, "one") == []
    assert end(scheduler, "eight") == ["one"]
    assert scheduler.view.engines["d0"].running == scheduler.view.engines["d0"].assigned == 1


def test_a_request_of_many_sequences_goes_where_they_have_room_and_is_not_overtaken() -> None:
    scheduler = make(4, 8)
    arrive(scheduler, "a"), arrive(scheduler, "b")
    assert arrive(scheduler, "seven", sequences=7) == ["d1"] or arrive(scheduler, "x") == []
    scheduler = make(4)
    arrive(scheduler, "a")
    assert arrive(scheduler, "four", sequences=4) == []
    assert arrive(scheduler, "late") == []
    assert end(scheduler, "a") == ["four"]
    assert end(scheduler, "four") == ["late"]


def test_more_sequences_than_any_engine_has_slots_are_alone() -> None:
    scheduler = make(2)
    assert arrive(scheduler, "five", sequences=5) == ["d0"]
    assert arrive(scheduler, "a") == []
    assert end(scheduler, "five") == ["a"]


def test_tokens_count_while_they_wait() -> None:
    scheduler = make(1)
    arrive(scheduler, "a")
    assert scheduler.waiting_tokens == 0
    arrive(scheduler, "b"), arrive(scheduler, "c")
    assert scheduler.waiting_tokens == 2 * TOKENS
    end(scheduler, "a")
    assert scheduler.waiting_tokens == TOKENS
    scheduler.handle(e.RequestCancelled("c"), now=0.0)
    assert scheduler.waiting_tokens == 0
    scheduler.handle(e.EngineDown("d0", "gone"), now=0.0)
    assert scheduler.state("b") is State.PARKED
    assert scheduler.waiting_tokens == TOKENS


def test_the_wait_for_a_slot_is_learned_while_some_wait() -> None:
    scheduler = make(1)
    names = [str(i) for i in range(12)]
    arrive(scheduler, "idle", at=0.0)
    end(scheduler, "idle", at=500.0)  # Nobody waited: it says nothing of the rate.
    for name in names:
        arrive(scheduler, name, at=1000.0)
    assert scheduler.queues.slot_wait_s(1) == 0.0
    for i, name in enumerate(names[:9]):
        end(scheduler, name, at=1002.0 + 2 * i)  # A slot comes free every 2 s.
    assert scheduler.queues.slot_wait_s(1) == pytest.approx(2 * (2 + 1), rel=0.05)
    assert scheduler.queues.slot_wait_s(4) == pytest.approx(2 * (2 + 4), rel=0.05)
    for name in names[9:11]:
        end(scheduler, name, at=1030.0)
    assert scheduler.queues.slot_wait_s(1) == 0.0


def test_who_waits_for_an_adapters_engine_keeps_nobody_else_waiting() -> None:
    scheduler = make(1, 1)
    for number in range(12):
        arrive(scheduler, f"tuned{number}", at=0.0, serves=("d0",))
    for number in range(9):
        end(scheduler, f"tuned{number}", at=10.0 + 10 * number)
    assert scheduler.queues.slot_wait_s(1, by_all=False) == pytest.approx(10 * (2 + 1), rel=0.05)
    assert scheduler.queues.slot_wait_s(1) == 0.0
    assert arrive(scheduler, "any", at=100.0) == ["d1"]


def test_a_tenant_waits_for_its_own_turns() -> None:
    scheduler = make(1)
    flood, alice, better = Asker("mallory"), Asker("alice", weight=2.0), Asker("boss", -1)
    for number in range(40):
        arrive(scheduler, str(number), whose=flood)
    for number in range(10):
        end(scheduler, str(number), at=10.0 + 10 * number)
    wait_s = scheduler.queues.slot_wait_s
    assert wait_s(1, flood) == pytest.approx(10 * (29 + 1), rel=0.05)
    assert wait_s(1, Asker("bob")) == pytest.approx(10 * 2, rel=0.05)
    assert wait_s(1, alice) == pytest.approx(10 * 1.5, rel=0.05)
    assert wait_s(1, Asker("later", 1)) == pytest.approx(10 * (29 + 1), rel=0.05)
    assert wait_s(1, better) == pytest.approx(10, rel=0.05)
    assert scheduler.queues.tokens_of == {"mallory": 29 * TOKENS}
    arrive(scheduler, "alices", whose=alice, at=200.0)
    assert scheduler.queues.tokens_of["alice"] == TOKENS
    served = "10"
    for _ in range(2):
        if served != "alices":
            (served,) = end(scheduler, served, at=300.0)
    assert served == "alices"
    assert set(scheduler.queues.tokens_of) == {"mallory"}
