"""From being asked to the first token: learned where it was a hand-off and streamed."""

from __future__ import annotations

from typing import Any

import pytest

from prfaas.core.deployment import SchedulerConfig
from prfaas.scheduler import commands as c
from prfaas.scheduler import events as e
from prfaas.scheduler.journal import CostInputs, Curve, JournalOpened, KvSize
from prfaas.scheduler.replay import scheduler_from
from prfaas.scheduler.scheduler import Scheduler
from prfaas.testing.scheduler_driver import LONG, SHORT, topology


def gateway(
    policy: str = "naive", loads: dict[str, tuple[float, ...]] | None = None, **costs: Any
) -> Scheduler:
    opened = JournalOpened(
        driver="gateway",
        unix_time=None,
        topology=topology(),
        scheduler=SchedulerConfig(policy=policy),
        costs=CostInputs(kv_size=KvSize(0.0, 1.0), loads=loads or {}, **costs),
    )
    return scheduler_from(opened)


def answer(scheduler: Scheduler, tokens: int, *, streamed: bool = True) -> None:
    """The hand-off is there at 2 s, the first token at 5 s."""
    scheduler.handle(e.RequestArrived("r", tokens, 10), now=0.0)
    scheduler.handle(e.PrefillCompleted("r", 1), now=1.0)
    scheduler.handle(e.TransferCompleted("r", 1), now=2.0)
    scheduler.handle(e.FirstToken("r", 1), now=5.0)
    scheduler.handle(e.RequestCompleted("r", 1, 10), now=6.0 if streamed else 5.0)


def test_what_was_streamed_after_a_hand_off_is_learned() -> None:
    scheduler = gateway()
    answer(scheduler, LONG)
    assert scheduler.view.costs.load_s("west-d0", 1792.0) == pytest.approx(3.0)
    again = gateway(loads=dict(scheduler.learned.loads))
    assert again.view.costs.load_s("west-d0", 1792.0) == pytest.approx(3.0)


@pytest.mark.parametrize(("tokens", "streamed"), [(LONG, False), (100, True)])
def test_what_says_nothing_of_it_is_not(tokens: int, streamed: bool) -> None:
    scheduler = gateway()
    answer(scheduler, tokens, streamed=streamed)
    assert scheduler.learned.loads == {}


@pytest.mark.parametrize("load_s", [0.1, 5.0])
def test_what_loads_take_must_be_in_time_as_well(load_s: float) -> None:
    """All but those of 10 s that a hand-off takes to load are left for its prefill, after 6 s."""
    scheduler = gateway("auto", {"west-d0": (1.0, 1e3, load_s, 1e6, load_s * 1e3)})
    for name, busy_s in (("east-1", 6.0), ("west-p0", 6.0), ("west-d0", 60.0)):
        scheduler._learner.prefill_seen(name, SHORT, 0.06)  # type: ignore[union-attr]
        scheduler.view.engines[name].book(1, busy_s, 0.0)  # type: ignore[attr-defined]
    commands = scheduler.handle(e.RequestArrived("r", SHORT, 10, deadline=1e3), now=0.0)
    refused = [command for command in commands if isinstance(command, c.FailRequest)]
    assert bool(refused) is (load_s == 5.0), commands


def test_decode_steps_are_learned_and_kept_for_a_successor() -> None:
    """Ten tokens in a second: nine steps. In a batch of one, the only one that was seen."""
    scheduler = gateway()
    answer(scheduler, LONG)
    assert scheduler.view.costs.answer_s("west-d0", 1) == pytest.approx(10 / 9)
    again = gateway(steps=dict(scheduler.learned.steps))
    assert again.view.costs.answer_s("west-d0", 1) == pytest.approx(10 / 9)
    unstreamed = gateway()
    answer(unstreamed, LONG, streamed=False)
    assert unstreamed.learned.steps == {}


def test_a_profile_says_what_steps_take_before_any_was_seen() -> None:
    seeded = gateway(step_seeds={"west-d0": Curve((1.0, 3.0), (0.01, 0.03), "linear")})
    assert seeded.view.costs.answer_s("west-d0", 1) == 0.0  # It does not say how long answers are.
    assert seeded.learned.steps["west-d0"][0] == pytest.approx(1.98)
