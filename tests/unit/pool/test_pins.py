"""Prefixes that are to stay: they do, what they stand on too, and transfers keep their room."""

from __future__ import annotations

import pytest
from tests.unit.pool.test_cache import BLOCK, Rig, prompt

from prfaas.core.errors import CapacityError
from prfaas.pool.effects import AnswerLoad
from prfaas.pool.events import (
    ConnectionClosed,
    EngineConnected,
    LoadClosed,
    PrefixPinned,
    PrefixUnpinned,
)
from prfaas.pool.pool import Pool
from prfaas.testing.pool_kit import SLOT


class PinRig(Rig):
    """With an arena of forty slots, ten of them for exports, and a cache of twelve: six may be
    pinned."""

    def __init__(self) -> None:
        super().__init__()
        engines = self.pool.snapshot().engines
        self.pool = Pool(
            "here", slot_bytes=SLOT, slot_count=40, export_slots=10,
            engines=frozenset({"a", "b"}), cache_slots=12,
        )  # fmt: skip
        for number, engine in enumerate(engines, start=1):
            self.say(EngineConnected(number, engine.engine, number, self.layout))


def test_the_pinned_and_what_it_stands_on_outlive_all_others() -> None:
    rig, tokens = PinRig(), prompt(1, 2)
    rig.receive("first", tokens[:BLOCK], slots=2)
    rig.receive("second", tokens, start=BLOCK, slots=2)
    rig.say(PrefixPinned("second"))
    snapshot = rig.pool.snapshot()
    assert (snapshot.pinned, snapshot.pinned_slots, snapshot.most_pinned_slots) == (
        ("second",),
        4,
        6,
    )
    for number in range(20):
        rig.receive(f"other-{number}", prompt(10 + number, 1), slots=2)
        rig.pool.check_integrity()
    assert {"first", "second"} < set(rig.cached())
    assert isinstance(rig.load(tokens), AnswerLoad)
    rig.say(LoadClosed(1, rig.loads))
    rig.say(ConnectionClosed(1))
    rig.say(PrefixUnpinned("second"))
    assert rig.pool.snapshot().pinned_slots == 0
    for number in range(20):
        rig.receive(f"later-{number}", prompt(50 + number, 1), slots=2)
    assert not {"first", "second"} & set(rig.cached())
    rig.pool.check_integrity()


def test_transfers_keep_what_is_not_pinned_and_are_told_where_they_never_fit() -> None:
    rig = PinRig()
    rig.receive("x", prompt(1, 1), slots=6)
    rig.say(PrefixPinned("x"))
    refusal = rig.refused("larger", 25 * SLOT)
    assert not refusal.retry
    assert "unpin prefixes" in refusal.reason
    rig.accepted("fits", 24 * SLOT)
    rig.pool.check_integrity()


def test_what_may_be_pinned_is_bounded_and_what_two_pins_share_counts_once() -> None:
    rig, tokens = PinRig(), prompt(1, 3)
    rig.receive("system", tokens[:BLOCK], slots=2)
    rig.receive("one", tokens, start=BLOCK, slots=2)
    rig.receive("two", [*tokens[:BLOCK], *prompt(2, 1)], start=BLOCK, slots=2)
    rig.receive("three", prompt(3, 1), slots=2)
    rig.say(PrefixPinned("one"))
    rig.say(PrefixPinned("one"))
    rig.say(PrefixPinned("two"))
    assert rig.pool.snapshot().pinned_slots == 6
    with pytest.raises(CapacityError, match="of 6 that may be 6 are"):
        rig.say(PrefixPinned("three"))
    with pytest.raises(CapacityError, match="not cached here"):
        rig.say(PrefixPinned("never-seen"))
    rig.say(PrefixUnpinned("one"))
    rig.say(PrefixUnpinned("never-seen"))
    assert rig.pool.snapshot().pinned_slots == 4  # the other stands on the same beginning
    rig.say(PrefixPinned("three"))
    rig.pool.check_integrity()


def test_where_receptions_take_the_room_nothing_is_pinned() -> None:
    rig = PinRig()
    rig.receive("x", prompt(1, 1), slots=4)
    rig.accepted("y", 28 * SLOT)
    with pytest.raises(CapacityError, match="no room"):
        rig.say(PrefixPinned("x"))
    assert rig.pool.snapshot().pinned == ()
    rig.pool.check_integrity()
