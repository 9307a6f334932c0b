"""Cached prefixes: what is kept, what goes first, and that it is never in anybody's way."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from prfaas.core.errors import EngineError
from prfaas.core.layout import KvGroup, KvLayout, LayerLayout
from prfaas.core.prefixes import Prefix, chain, root_digest, stretch
from prfaas.link.api import TransferKey, TransferOffer
from prfaas.pool.cache import Entry
from prfaas.pool.description import Description
from prfaas.pool.effects import (
    AcceptOffer,
    AnnounceCached,
    AnnounceEvicted,
    AnswerLoad,
    AnyEffect,
    FailLoad,
    GrantSlots,
    SendSlot,
)
from prfaas.pool.entries import Entries
from prfaas.pool.events import (
    ConnectionClosed,
    EngineConnected,
    ExportFinished,
    ExtentReleased,
    ImportClosed,
    ImportOpened,
    LoadClosed,
    LoadOpened,
    OfferReceived,
    RangeStored,
    SendCompleted,
    SendFailed,
    SlotsRequested,
    TransferCancelled,
    TransferDescribed,
    TransferReceived,
)
from prfaas.pool.pool import Pool
from prfaas.testing.mock_engine_rank import mock_layout
from prfaas.testing.pool_kit import (
    COUNT,
    DIGEST,
    EXPORT,
    READERS,
    SLOT,
    PoolRig,
    under_own_names,
)

BLOCK = 16
ROOT = root_digest("w", adapter=None, salt=None)


def hybrid_layout() -> KvLayout:
    (group,) = mock_layout().groups
    state = LayerLayout(name="layer.1", index=1, page_bytes=64, dtype="uint8", shape=(64,))
    return KvLayout("mock", (group, KvGroup("recurrent", BLOCK, (state,))))


class Rig(PoolRig):
    """With a cache of six slots, and what many tests do."""

    def __init__(self, layout: KvLayout | None = None, *, disk_bytes: int = 0) -> None:
        self.layout = layout or mock_layout()
        self.pool = Pool(
            "here",
            slot_bytes=SLOT,
            slot_count=COUNT,
            export_slots=EXPORT,
            engines=frozenset({"a", "b"}),
            cache_slots=6,
            disk_bytes=disk_bytes,
        )
        self.now, self.epoch, self.loads = 0.0, 100, 0
        for number, name in ((1, "a"), (2, "b")):
            self.say(EngineConnected(number, name, number, self.layout))

    def receive(
        self, name: str, tokens: list[int], *, start: int = 0, slots: int = 1, to: int | None = None
    ) -> list[AnyEffect]:
        """A transfer of tokens [start, to) arrives, is read, described and dropped."""
        end = to or len(tokens)
        self.epoch += 1
        key = TransferKey(name, 0, self.epoch)
        offer = TransferOffer(
            key, self.layout.fingerprint(), start, end, slots * SLOT, 60.0,
            prompt_digest=DIGEST, readers=READERS,
        )  # fmt: skip
        (answer,) = [e for e in self.say(OfferReceived("there", offer)) if hasattr(e, "key")]
        assert isinstance(answer, AcceptOffer), answer
        self.say(RangeStored(key, 0, slots * SLOT))
        self.say(TransferReceived(key))
        self.say(ImportOpened(2, name, start, end, slots * SLOT, DIGEST))
        self.say(TransferDescribed(2, name, self.prefix(tokens, start)))
        self.say(ImportClosed(2, name))
        return self.say(TransferCancelled(name))

    def prefix(self, tokens: list[int], start: int = 0) -> Prefix:
        found = stretch(
            chain(ROOT, tokens, BLOCK), ROOT, tokens, block_tokens=BLOCK,
            from_token=start, to_token=len(tokens), salt=None, adapter=None,
        )  # fmt: skip
        assert found is not None
        return under_own_names(found)

    def load(
        self, tokens: list[int], *, local: int = 0, end: int | None = None, by: int = 1
    ) -> AnswerLoad | FailLoad:
        self.loads += 1
        end = end or len(tokens) // BLOCK * BLOCK
        names = chain(ROOT, tokens, BLOCK)
        (answer,) = self.say(LoadOpened(by, self.loads, local, end, BLOCK, names))
        assert isinstance(answer, AnswerLoad | FailLoad)
        self.pool.check_integrity()
        return answer

    def cached(self) -> list[str]:
        return [entry.transfer_id for entry in self.pool.snapshot().cached]


def prompt(seed: int, blocks: int) -> list[int]:
    return [seed * 1000 + number for number in range(blocks * BLOCK)]


def test_what_was_read_is_kept_when_it_is_dropped_and_can_be_loaded() -> None:
    rig = Rig()
    tokens = prompt(1, 2)
    (announced,) = rig.receive("x", tokens, slots=2)
    assert isinstance(announced, AnnounceCached)
    assert announced.prefix == rig.prefix(tokens)
    assert rig.view("x").state == "failed"  # for those who ask for the transfer it is gone
    counts = rig.pool.snapshot().slots
    assert (counts.cached, counts.held, counts.free) == (2, 0, 8)
    answer = rig.load(tokens)
    assert isinstance(answer, AnswerLoad)
    (part,) = answer.parts
    assert sum(extent.length for extent in part.extents) == 2 * SLOT
    assert rig.pool.snapshot().slots.held == 2
    rig.say(LoadClosed(1, rig.loads))
    assert rig.pool.snapshot().slots.cached == 2


def test_what_nobody_described_is_free_when_it_is_dropped() -> None:
    rig = Rig()
    key = rig.accepted("x", SLOT)
    rig.say(RangeStored(key, 0, SLOT))
    rig.say(TransferReceived(key))
    rig.say(TransferCancelled("x"))
    assert rig.pool.snapshot().slots.free == COUNT


def test_who_has_not_read_a_transfer_cannot_say_what_it_is_of() -> None:
    rig = Rig()
    key = rig.accepted("x", SLOT)
    rig.say(RangeStored(key, 0, SLOT))
    rig.say(TransferReceived(key))
    rig.say(TransferDescribed(1, "x", rig.prefix(prompt(1, 1))))
    rig.say(TransferCancelled("x"))
    assert rig.cached() == []


def test_a_description_that_cannot_be_is_refused() -> None:
    rig = Rig()
    key = rig.accepted("x", SLOT)  # of tokens [0, 16)
    rig.say(RangeStored(key, 0, SLOT))
    rig.say(TransferReceived(key))
    rig.open("x", SLOT)
    for wrong in (rig.prefix(prompt(1, 2)), rig.prefix(prompt(1, 2), 16)):
        with pytest.raises(EngineError, match="is not of that prefix"):
            rig.say(TransferDescribed(2, "x", wrong))


def test_names_that_come_again_are_no_prefix() -> None:
    """Each would be looked up as often, and what it stands for evicted as often."""
    rig = Rig()
    rig.receive("x", prompt(1, 1))
    key = rig.accepted("y", SLOT)
    rig.say(RangeStored(key, 0, SLOT))
    rig.say(TransferReceived(key))
    rig.open("y", SLOT)
    (name,) = rig.prefix(prompt(1, 1)).digests
    wrong = Prefix(BLOCK, 0, ROOT, (name, name, bytes(16)))
    with pytest.raises(EngineError, match="a name of its own"):
        rig.say(TransferDescribed(2, "y", wrong))
    rig.say(TransferCancelled("y"))
    rig.pool.check_integrity()
    assert rig.cached() == ["x"]


def test_two_transfers_of_one_name_and_epoch_are_not_both_kept() -> None:
    """A peer chooses its own epochs: one that is kept would be lost under the other."""
    rig = Rig()
    rig.receive("x", prompt(1, 1))
    rig.at(1000.0)
    rig.epoch -= 1
    assert rig.receive("x", prompt(2, 1)) == []
    rig.pool.check_integrity()
    assert rig.cached() == ["x"]
    assert rig.pool.snapshot().slots.free == COUNT - 1


def test_a_longer_prompt_is_put_together_from_its_turns() -> None:
    rig = Rig()
    tokens = prompt(1, 3)
    rig.receive("first", tokens[: 2 * BLOCK])
    rig.receive("second", tokens, start=2 * BLOCK)
    answer = rig.load(tokens)
    assert isinstance(answer, AnswerLoad)
    assert [(p.from_token, p.to_token) for p in answer.parts] == [(32, 48), (0, 32)]
    rig.say(LoadClosed(1, rig.loads))
    # An engine that has the first itself is given the second alone.
    answer = rig.load(tokens, local=2 * BLOCK)
    assert isinstance(answer, AnswerLoad)
    assert [p.from_token for p in answer.parts] == [32]


def test_full_attention_can_be_cut_at_any_block_and_a_state_at_none() -> None:
    plain, hybrid = Rig(), Rig(hybrid_layout())
    tokens = prompt(1, 3)
    for rig in (plain, hybrid):
        rig.receive("x", tokens)
    assert isinstance(plain.load(tokens, end=BLOCK), AnswerLoad)
    assert isinstance(hybrid.load(tokens, end=BLOCK), FailLoad)
    assert isinstance(hybrid.load(tokens), AnswerLoad)


def test_an_exact_transfer_is_resumed_from_its_last_block_end() -> None:
    rig = Rig(hybrid_layout())
    tokens = prompt(1, 3)
    rig.receive("x", tokens[: 2 * BLOCK + 7], slots=2)
    answer = rig.load(tokens, end=2 * BLOCK)
    assert isinstance(answer, AnswerLoad)
    assert answer.parts[0].to_token == 2 * BLOCK + 7


def test_nothing_but_the_same_prefix_is_found() -> None:
    rig = Rig()
    rig.receive("x", prompt(1, 2))
    assert isinstance(rig.load(prompt(2, 2)), FailLoad)
    other = [*prompt(1, 1), *prompt(3, 1)]
    assert isinstance(rig.load(other), FailLoad)
    names = chain(root_digest("w", adapter=None, salt="s"), prompt(1, 2), BLOCK)
    (answer,) = rig.say(LoadOpened(1, 99, 0, 32, BLOCK, names))
    assert isinstance(answer, FailLoad)
    names = chain(ROOT, prompt(1, 2), BLOCK)
    (answer,) = rig.say(LoadOpened(1, 100, 0, 32, BLOCK, names, "another layout"))
    assert isinstance(answer, FailLoad)


def test_the_least_recently_used_goes_first_and_a_turn_before_what_it_stands_on() -> None:
    rig = Rig()
    tokens = prompt(1, 2)
    rig.receive("first", tokens[:BLOCK], slots=2)
    rig.receive("second", tokens, start=BLOCK, slots=2)
    rig.receive("other", prompt(2, 1), slots=2)
    rig.load(tokens, local=BLOCK)  # uses the second alone, and with it the first
    rig.say(LoadClosed(1, rig.loads))
    effects = rig.receive("more", prompt(3, 1), slots=2)
    assert [e.key.transfer_id for e in effects if isinstance(e, AnnounceEvicted)] == ["other"]
    rig.receive("yet more", prompt(4, 1), slots=2)
    assert rig.cached() == ["first", "more", "yet more"]


def test_transfers_take_its_memory_at_once() -> None:
    rig = Rig()
    rig.receive("x", prompt(1, 1), slots=3)
    rig.receive("y", prompt(2, 1), slots=3)
    rig.accepted("z", 5 * SLOT)  # four slots were free
    assert rig.cached() == ["y"]
    (grant,) = rig.say(SlotsRequested(1, 2))
    assert isinstance(grant, GrantSlots)
    assert len(grant.slots) == 2
    rig.pool.check_integrity()


def test_what_is_read_stays_and_counts_as_received() -> None:
    rig = Rig()
    rig.receive("x", prompt(1, 1), slots=3)
    assert isinstance(rig.load(prompt(1, 1)), AnswerLoad)
    assert rig.refused("y", 4 * SLOT).retry  # three of the six slots for receptions are left
    rig.accepted("z", 3 * SLOT)
    assert rig.cached() == ["x"]
    rig.say(ConnectionClosed(1))
    assert rig.pool.snapshot().slots.cached == 3


def test_a_load_that_receptions_leave_no_room_for_fails() -> None:
    rig = Rig()
    rig.receive("x", prompt(1, 1), slots=2)
    rig.accepted("y", 5 * SLOT)
    answer = rig.load(prompt(1, 1))
    assert isinstance(answer, FailLoad)
    assert "no room" in answer.reason


def test_the_same_prefix_is_kept_once_and_a_larger_one_replaces_its_part() -> None:
    rig = Rig()
    tokens = prompt(1, 2)
    rig.receive("x", tokens[:BLOCK])
    rig.receive("again", tokens[:BLOCK])
    assert rig.cached() == ["x"]
    rig.receive("whole", tokens)
    assert rig.cached() == ["whole"]


def test_a_state_is_not_replaced_by_one_further_on() -> None:
    rig = Rig(hybrid_layout())
    tokens = prompt(1, 2)
    rig.receive("x", tokens[:BLOCK])
    rig.receive("whole", tokens)
    assert sorted(rig.cached()) == ["whole", "x"]


def test_what_is_larger_than_the_cache_is_not_kept() -> None:
    rig = Rig()
    rig.pool = Pool(
        "here", slot_bytes=SLOT, slot_count=COUNT, export_slots=EXPORT,
        engines=frozenset({"a", "b"}), cache_slots=2,
    )  # fmt: skip
    for number, name in ((1, "a"), (2, "b")):
        rig.say(EngineConnected(number, name, number, rig.layout))
    rig.receive("x", prompt(1, 1), slots=3)
    assert rig.pool.snapshot().slots.free == COUNT


class Sending:
    """An export of two slots over the link, described."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.key = rig.send("x", 2 * SLOT)
        rig.say(TransferDescribed(1, "x", rig.prefix(prompt(1, 1))))
        self.slots = []
        for flat in (0, SLOT):
            (sent,) = [e for e in rig.fill("x", (flat, SLOT)) if isinstance(e, SendSlot)]
            self.slots.append(sent.slot)

    def release(self, *slots: int) -> list[AnyEffect]:
        return [e for s in slots for e in self.rig.say(ExtentReleased(self.key, self.slots[s]))]


@pytest.mark.parametrize("late", [False, True])
def test_what_was_sent_is_kept_whichever_comes_last(late: bool) -> None:
    rig = Rig()
    sending = Sending(rig)
    sending.release(0)
    assert rig.pool.snapshot().slots.cached == 1
    rig.say(ExportFinished(1, "x"))
    if late:
        rig.say(SendCompleted(sending.key))
        effects = sending.release(1)
    else:
        sending.release(1)
        effects = rig.say(SendCompleted(sending.key))
    assert [type(e) for e in effects if isinstance(e, AnnounceCached)] == [AnnounceCached]
    assert isinstance(rig.load(prompt(1, 1)), AnswerLoad)


def test_a_failed_export_is_not_kept() -> None:
    rig = Rig()
    sending = Sending(rig)
    sending.release(0)
    rig.say(SendFailed(sending.key, "line lost"))
    sending.release(1)
    assert (rig.pool.snapshot().slots.free, rig.cached()) == (COUNT, [])


def test_sent_slots_are_taken_by_those_who_need_them_and_the_export_goes_on() -> None:
    rig = Rig()
    sending = Sending(rig)
    sending.release(0)
    rig.accepted("y", 6 * SLOT)
    (grant,) = rig.say(SlotsRequested(2, 2))
    assert isinstance(grant, GrantSlots)
    (grant,) = rig.say(SlotsRequested(2, 1))  # the last of the export share
    rig.say(ExportFinished(1, "x"))
    rig.say(SendCompleted(sending.key))
    sending.release(1)
    assert rig.view("x").sent is not None
    assert rig.cached() == []
    rig.pool.check_integrity()


def test_a_window_inside_a_block_is_no_place_to_go_on_from() -> None:
    (group,) = mock_layout().groups
    window = KvGroup("sliding_window", BLOCK, group.layers, window_tokens=BLOCK)
    layout = KvLayout("mock", (window,))
    prefix = Rig().prefix(prompt(1, 1))
    key = TransferKey("x", 0, 1)
    for to_token, stands_at in ((16, 16), (20, 0)):
        offer = TransferOffer(key, layout.fingerprint(), 0, to_token, SLOT, 1.0)
        assert Description(prefix, layout).entry(offer, (), [0]).what.stands_at == stands_at


def test_where_it_is_full_the_first_alone_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each slot that is sent makes room for itself: to look at all each time takes a square."""
    rig = Rig()
    for seed in range(6):
        rig.receive(f"t{seed}", prompt(seed, 1))
    looked = 0
    every = Entries.__iter__

    def counted(self: Entries[Entry]) -> Iterator[Entry]:
        nonlocal looked
        for entry in every(self):
            looked += 1
            yield entry

    monkeypatch.setattr(Entries, "__iter__", counted)
    rig.receive("one more", prompt(9, 1))
    monkeypatch.undo()
    assert looked == 1
    assert rig.cached() == ["t1", "t2", "t3", "t4", "t5", "one more"]
