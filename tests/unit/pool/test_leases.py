"""The waiting line for slots."""

from __future__ import annotations

import pytest

from prfaas.core.errors import EngineError
from prfaas.pool.effects import GrantSlots, ServeLeases
from prfaas.pool.events import (
    ConnectionClosed,
    EngineDropped,
    ExtentReleased,
    LeasesCameDue,
    SlotsRequested,
    SlotsReturned,
)
from prfaas.testing.pool_kit import SLOT, PoolRig


def test_at_most_half_of_the_share_at_once_and_in_turn(rig: PoolRig) -> None:
    assert rig.say(SlotsRequested(1, 99)) == [GrantSlots(1, (0, 1))]
    assert rig.say(SlotsRequested(1, 99)) == [GrantSlots(1, (2, 3))]
    assert rig.say(SlotsRequested(2, 2)) == []
    assert rig.say(SlotsRequested(1, 1)) == []
    assert rig.pool.snapshot().lease_waiters == 2
    assert rig.say(SlotsReturned(1, (3,))) == [GrantSlots(2, (3,))]
    assert rig.say(SlotsReturned(1, (0, 1))) == [GrantSlots(1, (0,))]


def test_a_connection_that_ends_gives_everything_back(rig: PoolRig) -> None:
    rig.say(SlotsRequested(1, 2))
    rig.say(SlotsRequested(1, 2))
    rig.say(SlotsRequested(1, 2))
    rig.say(SlotsRequested(2, 2))
    assert rig.say(ConnectionClosed(1)) == [GrantSlots(2, (0, 1))]
    assert rig.pool.snapshot().lease_waiters == 0


def test_a_dropped_engine_keeps_what_it_has_and_gets_nothing_more(rig: PoolRig) -> None:
    rig.say(SlotsRequested(1, 2))
    rig.say(SlotsRequested(2, 2))
    rig.say(SlotsRequested(1, 2))
    assert rig.say(EngineDropped(1)) == []
    assert rig.say(SlotsReturned(2, (2, 3))) == []
    assert rig.pool.snapshot().slots.leased == 2
    rig.say(ConnectionClosed(1))
    assert rig.pool.snapshot().slots.leased == 0


@pytest.mark.parametrize("count", [0, -1])
def test_a_request_for_nothing_is_the_engines_fault(rig: PoolRig, count: int) -> None:
    with pytest.raises(EngineError):
        rig.say(SlotsRequested(1, count))


def test_who_asks_again_and_again_before_it_was_answered_is_at_fault(rig: PoolRig) -> None:
    for _ in range(2 + 64):  # Two are answered.
        rig.say(SlotsRequested(1, 2))
    with pytest.raises(EngineError, match="64 times"):
        rig.say(SlotsRequested(1, 2))
    rig.say(SlotsRequested(2, 2))
    assert rig.pool.snapshot().lease_waiters == 65
    rig.say(SlotsReturned(1, (0,)))
    rig.say(SlotsRequested(1, 2))


def test_what_the_link_releases_is_granted_together(rig: PoolRig) -> None:
    key = rig.send("x", 4 * SLOT)
    for flat in range(0, 4 * SLOT, SLOT):
        rig.fill("x", (flat, SLOT))
    rig.say(SlotsRequested(2, 2))
    handle = rig.pool.handle
    assert handle(ExtentReleased(key, 0), now=0.0) == [ServeLeases()]
    assert handle(ExtentReleased(key, 1), now=0.0) == []
    assert handle(LeasesCameDue(), now=0.0) == [GrantSlots(2, (0, 1))]
    assert handle(ExtentReleased(key, 2), now=0.0) == [], "nobody waits"
