"""The machine as a whole: time, views, and that a breach of the rules changes nothing."""

from __future__ import annotations

import pytest

from prfaas.core.errors import EngineError, InvariantError
from prfaas.pool import effects, events
from prfaas.pool.events import (
    ConnectionClosed,
    SlotsRequested,
    SlotsReturned,
    TimePassed,
    TransferCancelled,
)
from prfaas.testing.pool_kit import SLOT, PoolRig


def test_time_does_not_run_backwards(rig: PoolRig) -> None:
    rig.at(5.0)
    with pytest.raises(InvariantError, match="time ran backwards"):
        rig.pool.handle(TimePassed(), now=4.9)


def test_a_breach_of_the_rules_changes_nothing(rig: PoolRig) -> None:
    rig.say(SlotsRequested(1, 2))
    before = rig.pool.snapshot()
    for breach in (SlotsReturned(1, (0, 7)), SlotsReturned(2, (0,)), SlotsReturned(1, (0, 0))):
        with pytest.raises(EngineError):
            rig.pool.handle(breach, now=rig.now)
    assert rig.pool.snapshot() == before


def test_a_snapshot_does_not_change_any_more(rig: PoolRig) -> None:
    before = rig.pool.snapshot()
    rig.begin("x", SLOT)
    rig.fill("x", (0, SLOT))
    assert before.counters.exported_bytes_local == before.receptions == 0
    assert rig.pool.snapshot().counters.exported_bytes_local == SLOT


def test_connections_that_never_registered_may_close(rig: PoolRig) -> None:
    assert rig.say(ConnectionClosed(99)) == []


def test_a_cancelled_transfer_is_over_before_it_begins(rig: PoolRig) -> None:
    rig.say(TransferCancelled("x"))
    view, over = rig.pool.transfer("x", ranks=1)
    assert (view.state, view.reason, over) == ("failed", "cancelled", True)


@pytest.mark.parametrize(("module", "base"), [(events, "Event"), (effects, "Effect")])
def test_every_event_and_effect_is_in_its_union(module: object, base: str) -> None:
    kinds = {
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, getattr(module, base))
    } - {getattr(module, base)}
    assert set(getattr(module, f"Any{base}").__args__) == kinds
