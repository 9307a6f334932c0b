"""Any interleaving of what engines, link, gateway and time do to a pool.

The machine plays everybody around one `Pool`: engine ranks, the KV link in both directions, the
driver that carries effects out later than they are given, and an arena with real bytes. It keeps
its own account of who may touch which slot, from the effects and events alone, and fails where a
slot gets a second owner, an import a second answer, an export a second end.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from prfaas.core.errors import CapacityError, EngineError
from prfaas.core.extents import Extent
from prfaas.core.layout import KvLayout
from prfaas.core.prefixes import Prefix, chain, root_digest, stretch
from prfaas.core.ranges import RangeSet
from prfaas.link.api import TransferKey, TransferOffer
from prfaas.pool.disk_events import SpillRead, SpillUnreadable, SpillWriteFailed, SpillWritten
from prfaas.pool.effects import (
    AbandonReception,
    AcceptOffer,
    AnnounceCached,
    AnnounceEvicted,
    AnswerImport,
    AnswerLoad,
    AnyEffect,
    CancelSend,
    CopySlot,
    DropSpilled,
    FailImport,
    FailLoad,
    ForgetSend,
    GrantSlots,
    ReadSpilled,
    RefuseOffer,
    SendSlot,
    ServeLeases,
    StartSend,
    StopExport,
    WriteSpilled,
)
from prfaas.pool.events import (
    AnyEvent,
    ConnectionClosed,
    CopyAwaited,
    CopyRequested,
    EngineConnected,
    EngineDropped,
    ExportAborted,
    ExportBegun,
    ExportFinished,
    ExtentReleased,
    ImportClosed,
    ImportOpened,
    LeasesCameDue,
    LoadClosed,
    LoadOpened,
    NamesChanged,
    OfferReceived,
    OfferWithdrawn,
    PrefixPinned,
    PrefixUnpinned,
    RangeStored,
    ReceptionFailed,
    SendCompleted,
    SendFailed,
    SendProgressed,
    SlotCopied,
    SlotFilled,
    SlotsRequested,
    SlotsReturned,
    TimePassed,
    TransferCancelled,
    TransferDescribed,
    TransferReceived,
)
from prfaas.pool.kept import KeptPrefix
from prfaas.pool.pool import Pool
from prfaas.pool.spill_format import ALIGN, file_bytes
from prfaas.testing.mock_engine_rank import MOCK_DIGEST, READERS, mock_layout
from prfaas.testing.pool_kit import under_own_names

SLOT, COUNT, EXPORT, CACHE = 16, 10, 4, 6
DISK = 3 * 2 * ALIGN
"""Three files, each a head and less than a page of bytes."""
LAYOUT: KvLayout = mock_layout()
SIZES = st.sampled_from([1, SLOT, SLOT + 5, 3 * SLOT, 6 * SLOT, 7 * SLOT])


def content(transfer_id: str, start: int, length: int) -> bytes:
    seed = sum(transfer_id.encode()) * 37
    return bytes((seed + 3 * i) % 251 for i in range(start, start + length))


def prefix(transfer_id: str) -> Prefix:
    """Each transfer is of a prompt of its own."""
    root, tokens = root_digest(transfer_id, adapter=None, salt=None), list(range(16))
    found = stretch(
        chain(root, tokens, 16),
        root,
        tokens,
        block_tokens=16,
        from_token=0,
        to_token=16,
        salt=None,
        adapter=None,
    )
    assert found is not None
    return under_own_names(found)


@dataclass
class Rank:
    """An engine's connection, as it knows itself."""

    slots: list[int] = field(default_factory=list)
    exports: dict[str, int] = field(default_factory=dict)
    """Size by transfer id."""
    next_flat: dict[str, int] = field(default_factory=dict)
    unanswered: Counter[str] = field(default_factory=Counter)
    reading: dict[str, list[tuple[Extent, ...]]] = field(default_factory=dict)
    loading: dict[int, tuple[str, tuple[Extent, ...]]] = field(default_factory=dict)
    """Transfer id and where its bytes lie, by the load's number."""
    dropped: bool = False


@dataclass
class Sending:
    """A transfer in the link, outwards."""

    total: int
    added: RangeSet = field(default_factory=RangeSet)
    over: bool = False


@dataclass
class Receiving:
    """A transfer in the link, inwards."""

    total: int
    slots: tuple[int, ...]
    stored: RangeSet = field(default_factory=RangeSet)


class PoolMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool(
            "here",
            slot_bytes=SLOT,
            slot_count=COUNT,
            export_slots=EXPORT,
            engines=frozenset({"a", "b", "c"}),
            cache_slots=CACHE,
            disk_bytes=DISK,
        )
        self.now = 0.0
        self.arena = bytearray(SLOT * COUNT)
        self.todo: deque[AnyEffect] = deque()
        self.ranks: dict[int, Rank] = {}
        self.connections = 0
        self.epoch = 0
        self.sends: dict[TransferKey, Sending] = {}
        self.held_by_link: list[ExtentReleased] = []
        self.receives: dict[TransferKey, Receiving] = {}
        self.offered: list[TransferKey] = []
        self.writers: dict[int, object] = {}
        self.readers: Counter[int] = Counter()
        self.stops = 0
        self.begun = 0
        self.known: dict[str, int] = {}
        """Size of the latest attempt, by transfer id."""
        self.names = 0
        self.cached: dict[TransferKey, Prefix] = {}
        """As it was announced."""
        self.loads: dict[int, str] = {}
        """Transfer ids of loads that were opened, by number."""
        self.unanswered: set[int] = set()
        self.closable: dict[int, int] = {}
        """Loads that wait for the disk, and their connections."""
        self.files: dict[TransferKey, tuple[KeptPrefix, bytes]] = {}
        self.writing: WriteSpilled | None = None
        self.arriving: dict[TransferKey, ReadSpilled] = {}
        self.tiers: dict[TransferKey, str] = {}
        """As they were announced last."""
        self.prompt = True
        """Whether effects are carried out at once."""

    @initialize(prompt=st.booleans())
    def begin_with(self, prompt: bool) -> None:
        self.prompt = prompt
        self.connect()
        self.connect()

    # the account of who touches what

    def do(self, event: AnyEvent) -> list[AnyEffect]:
        effects = self.pool.handle(event, now=self.now)
        for effect in effects:
            self.account(effect)
        busy = bool(self.todo)
        self.todo.extend(effects)
        if self.prompt and not busy:
            self.carry_out_all()
        return effects

    def name(self, data: st.DataObject) -> str:
        """A transfer id: a new one, or one that was used before."""
        if not self.known or data.draw(st.integers(0, 3)):
            self.names += 1
            return f"t{self.names}"
        return data.draw(st.sampled_from(sorted(self.known)))

    def account(self, effect: AnyEffect) -> None:
        match effect:
            case GrantSlots(connection, slots):
                assert slots
                self.write(slots, connection)
            case AcceptOffer(key, slots):
                self.write(slots, key)
            case SendSlot(_, slot, extents):
                self.read([slot] * len(extents))
            case AnswerImport(connection, transfer_id, extents):
                self.answered(connection, transfer_id)
                self.ranks[connection].reading.setdefault(transfer_id, []).append(extents)
                self.read(slots_of(extents))
            case FailImport(connection, transfer_id, _):
                self.answered(connection, transfer_id)
            case AnnounceCached(key, layout, found, None, tier):
                assert (layout, found) == (LAYOUT.fingerprint(), prefix(key.transfer_id))
                self.cached[key], self.tiers[key] = found, tier
            case AnnounceEvicted(key):
                del self.cached[key], self.tiers[key]
            case WriteSpilled(_, extents):
                assert self.writing is None
                self.writing = effect
                self.read(slots_of(extents))
            case ReadSpilled(what, extents):
                assert what.key not in self.arriving
                self.arriving[what.key] = effect
                self.write(tuple(sorted({*slots_of(extents)})), what.key)
            case AnswerLoad(connection, load, (part,)):
                self.unanswered.remove(load)
                self.ranks[connection].loading[load] = self.loads[load], part.extents
                self.read(slots_of(part.extents))
            case FailLoad(_, load, reason):
                self.unanswered.discard(load)
                if reason not in ("damaged", "the disk is too slow"):
                    here = self.loads[load] in {key.transfer_id for key in self.cached}
                    full = ("no room", "at a time", "arena slots")
                    assert here == any(words in reason for words in full)
            case CopySlot(_, slot, copies):
                self.read([slot])
                for copy in copies:
                    assert not self.readers[copy.target // SLOT]
                    assert copy.target // SLOT not in self.writers
            case StopExport():
                self.stops += 1

    def write(self, slots: tuple[int, ...], writer: object) -> None:
        for slot in slots:
            assert slot not in self.writers, f"{slot}: {self.writers[slot]} and {writer}"
            assert not self.readers[slot], f"{slot} is read and given to {writer}"
            self.writers[slot] = writer

    def read(self, slots: list[int]) -> None:
        for slot in slots:
            assert slot not in self.writers
            self.readers[slot] += 1

    def no_writer(self, writer: object) -> None:
        self.writers = {s: who for s, who in self.writers.items() if who != writer}

    def answered(self, connection: int, transfer_id: str) -> None:
        rank = self.ranks[connection]
        assert not rank.dropped
        assert rank.unanswered[transfer_id] > 0, "an import has two answers"
        rank.unanswered[transfer_id] -= 1

    def close_reading(self, rank: Rank, transfer_id: str) -> None:
        for extents in rank.reading.pop(transfer_id, []):
            self.readers.subtract(slots_of(extents))

    def some_rank(self, data: st.DataObject, *, with_slots: bool = False) -> int | None:
        numbers = [
            n for n, r in self.ranks.items() if not r.dropped and (r.slots or not with_slots)
        ]
        return data.draw(st.sampled_from(numbers)) if numbers else None

    # engines

    @precondition(lambda self: len(self.ranks) < 2)
    @rule()
    def connect(self) -> None:
        self.connections += 1
        taken = {entry.engine for entry in self.pool.snapshot().engines}
        name = next(n for n in "abc" if n not in taken)
        self.do(EngineConnected(self.connections, name, 1, LAYOUT))
        self.ranks[self.connections] = Rank()

    def close(self, connection: int) -> None:
        rank = self.ranks.pop(connection)
        for transfer_id in list(rank.reading):
            self.close_reading(rank, transfer_id)
        for _, extents in rank.loading.values():
            self.readers.subtract(slots_of(extents))
        self.unanswered -= {n for n in self.unanswered if self.closable[n] == connection}
        self.no_writer(connection)
        self.do(ConnectionClosed(connection))

    @rule(data=st.data(), count=st.integers(0, 6))
    def request_or_return(self, data: st.DataObject, count: int) -> None:
        connection = self.some_rank(data, with_slots=not count)
        if connection is not None and count:
            self.do(SlotsRequested(connection, count))
        elif connection is not None:
            slot = self.ranks[connection].slots.pop()
            del self.writers[slot]
            self.do(SlotsReturned(connection, (slot,)))

    @rule(data=st.data(), size=SIZES, local=st.booleans(), life=st.integers(1, 60))
    def begin(self, data: st.DataObject, size: int, local: bool, life: int) -> None:
        connection = self.some_rank(data)
        if connection is None:
            return
        name, to = self.name(data), "here" if local else "there"
        before, stops = self.pool.snapshot().exports, self.stops
        self.do(ExportBegun(connection, name, to, 0, 16, size, float(life), MOCK_DIGEST, READERS))
        if self.stops == stops or self.pool.snapshot().exports > before:
            self.begun += 1
            self.known[name] = self.ranks[connection].exports[name] = size
            self.ranks[connection].next_flat[name] = 0

    @precondition(lambda self: any(r.exports for r in self.ranks.values()))
    @rule(data=st.data(), times=st.integers(1, 14), dense=st.booleans(), end=st.booleans())
    def fill(self, data: st.DataObject, times: int, dense: bool, end: bool) -> None:
        """Hand over slots: the next bytes of an export, or any two ranges, perhaps again."""
        able = sorted(n for n, r in self.ranks.items() if r.exports and not r.dropped)
        if not able:
            return
        connection = data.draw(st.sampled_from(able))
        rank = self.ranks[connection]
        name = data.draw(st.sampled_from(sorted(rank.exports)))
        for _ in range(times):
            if not rank.slots:
                self.do(SlotsRequested(connection, 2))
            if not rank.slots:
                return
            if dense and rank.next_flat[name] == rank.exports[name]:
                break
            slot = rank.slots.pop()
            if dense:
                extents = self.next_extent(rank, name, slot)
            else:
                extents = self.any_extents(data, name, slot, rank.exports[name])
            del self.writers[slot]
            self.do(SlotFilled(connection, name, slot, extents))
        if end:
            self.end_export(connection, name, finish=True)

    def next_extent(self, rank: Rank, name: str, slot: int) -> tuple[Extent, ...]:
        """Half a slot, so that a local hand-off runs out of slots and is packed."""
        flat = rank.next_flat[name]
        most = SLOT if int(name[1:]) % 2 else SLOT // 2
        length = min(most, rank.exports[name] - flat)
        rank.next_flat[name] = flat + length
        at = slot * SLOT
        self.arena[at : at + length] = content(name, flat, length)
        return (Extent(flat, at, length),)

    def any_extents(
        self, data: st.DataObject, name: str, slot: int, total: int
    ) -> tuple[Extent, ...]:
        extents = []
        position = data.draw(st.integers(0, SLOT - 1))
        for _ in range(data.draw(st.integers(1, 2))):
            flat = data.draw(st.integers(0, total - 1))
            length = min(data.draw(st.integers(1, SLOT)), SLOT - position, total - flat)
            if length > 0:
                at = slot * SLOT + position
                self.arena[at : at + length] = content(name, flat, length)
                extents.append(Extent(flat, at, length))
            position += length
        return tuple(extents)

    @precondition(lambda self: any(r.exports for r in self.ranks.values()))
    @rule(data=st.data(), finish=st.booleans())
    def ends_early(self, data: st.DataObject, finish: bool) -> None:
        able = sorted(n for n, r in self.ranks.items() if r.exports and not r.dropped)
        if able:
            connection = data.draw(st.sampled_from(able))
            name = data.draw(st.sampled_from(sorted(self.ranks[connection].exports)))
            self.end_export(connection, name, finish=finish)

    def end_export(self, connection: int, name: str, *, finish: bool) -> None:
        del self.ranks[connection].exports[name]
        if finish:
            self.do(ExportFinished(connection, name))
        else:
            self.do(ExportAborted(connection, name, "aborted"))

    @precondition(lambda self: self.known)
    @rule(data=st.data(), wrong=st.integers(0, 5))
    def open_import(self, data: st.DataObject, wrong: int) -> None:
        connection = self.some_rank(data)
        if connection is not None:
            name = data.draw(st.sampled_from([*sorted(self.known), "unheard-of"]))
            size = self.known.get(name, 1) + (wrong == 0)
            self.ranks[connection].unanswered[name] += 1
            self.do(ImportOpened(connection, name, 0, 16, size, MOCK_DIGEST))

    @rule(data=st.data())
    def close_import(self, data: st.DataObject) -> None:
        connection = self.some_rank(data)
        if connection is not None:
            rank = self.ranks[connection]
            name = data.draw(st.sampled_from(sorted({*rank.reading, *rank.unanswered, "t1"})))
            self.close_reading(rank, name)
            self.do(ImportClosed(connection, name))
            assert not rank.unanswered[name]

    @precondition(lambda self: self.known)
    @rule(data=st.data(), some=st.booleans())
    def describe(self, data: st.DataObject, some: bool) -> None:
        """Of a transfer that it exports or reads, or of any: then nothing happens."""
        connection = self.some_rank(data)
        if connection is not None:
            rank = self.ranks[connection]
            mine = sorted({*rank.exports, *rank.reading})
            name = data.draw(st.sampled_from(mine if some and mine else sorted(self.known)))
            self.do(TransferDescribed(connection, name, prefix(name)))

    @rule(data=st.data(), size=SIZES, cancel=st.booleans())
    def receive_and_keep(self, data: st.DataObject, size: int, cancel: bool) -> None:
        """The life of most transfers, in one go; what is left of it the other rules do."""
        connection = self.some_rank(data)
        if connection is None:
            return
        self.epoch += 1
        self.names += 1
        name = f"t{self.names}"
        key = TransferKey(name, 0, 1_000_000 + self.epoch)
        offer = TransferOffer(
            key, LAYOUT.fingerprint(), 0, 16, size, 60.0, prompt_digest=MOCK_DIGEST, readers=READERS
        )
        for effect in self.do(OfferReceived("there", offer)):
            if isinstance(effect, AcceptOffer):
                self.known[name] = size
                self.receives[key] = Receiving(size, effect.slots)
                self.store(key, 0, size)
                self.let_go(key, False)
                self.ranks[connection].unanswered[name] += 1
                self.do(ImportOpened(connection, name, 0, 16, size, MOCK_DIGEST))
                self.do(TransferDescribed(connection, name, prefix(name)))
                if cancel:
                    self.do(TransferCancelled(name))

    @rule(data=st.data(), size=SIZES)
    def send_and_keep(self, data: st.DataObject, size: int) -> None:
        connection = self.some_rank(data)
        if connection is None or not self.prompt or self.todo:
            return
        rank = self.ranks[connection]
        self.names += 1
        name = f"t{self.names}"
        self.do(ExportBegun(connection, name, "there", 0, 16, size, 60.0, MOCK_DIGEST, READERS))
        self.begun += 1
        self.known[name] = rank.exports[name] = size
        rank.next_flat[name] = 0
        self.do(TransferDescribed(connection, name, prefix(name)))
        while rank.next_flat[name] < size:
            if not rank.slots:
                self.do(SlotsRequested(connection, 2))
            if not rank.slots:
                return
            slot = rank.slots.pop()
            extents = self.next_extent(rank, name, slot)
            del self.writers[slot]
            self.do(SlotFilled(connection, name, slot, extents))
            if data.draw(st.booleans()):
                self.release_one(len(self.held_by_link) - 1)

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def open_load(self, data: st.DataObject) -> None:
        connection = self.some_rank(data)
        if connection is not None:
            names = {key.transfer_id for key in self.cached}
            name = data.draw(st.sampled_from(sorted(names) or sorted(self.known)))
            number = len(self.loads)
            self.loads[number] = name
            self.unanswered.add(number)
            self.closable[number] = connection
            self.do(LoadOpened(connection, number, 0, 16, 16, prefix(name).digests))
            waits = any(key.transfer_id == name for key in self.arriving)
            assert waits or number not in self.unanswered

    @precondition(lambda self: self.known)
    @rule(data=st.data(), stays=st.booleans())
    def pin_or_unpin(self, data: st.DataObject, stays: bool) -> None:
        names = {key.transfer_id for key in self.cached}
        name = data.draw(st.sampled_from(sorted(names) or sorted(self.known)))
        try:
            self.do(PrefixPinned(name) if stays else PrefixUnpinned(name))
        except CapacityError:
            assert stays

    @precondition(lambda self: self.known)
    @rule(data=st.data(), life=st.integers(1, 60))
    def send_copy(self, data: st.DataObject, life: int) -> None:
        """Of what is cached, or was."""
        names = {key.transfer_id for key in self.cached}
        name = data.draw(st.sampled_from(sorted(names) or sorted(self.known)))
        self.names += 1
        self.do(CopyRequested(name, f"t{self.names}", "there", float(life)))
        self.known[f"t{self.names}"] = 1

    @rule(data=st.data(), size=SIZES, awaited=st.booleans(), right=st.booleans())
    def receive_copy(self, data: st.DataObject, size: int, awaited: bool, right: bool) -> None:
        if not self.ranks:
            return
        self.epoch += 1
        self.names += 1
        name = f"t{self.names}"
        key = TransferKey(name, 0, 1_000_000 + self.epoch)
        digest = prefix(name).digest() if right else MOCK_DIGEST
        offer = TransferOffer(
            key, LAYOUT.fingerprint(), 0, 16, size, 60.0, prompt_digest=digest, readers=()
        )
        if awaited:
            self.do(CopyAwaited(name, prefix(name), 60.0))
        for effect in self.do(OfferReceived("there", offer)):
            if isinstance(effect, AcceptOffer):
                self.known[name] = size
                self.receives[key] = Receiving(size, effect.slots)
                if data.draw(st.booleans()):
                    self.store(key, 0, size)
                    self.let_go(key, False)
                    assert (awaited and right) or key not in self.cached

    @precondition(lambda self: any(r.loading for r in self.ranks.values()))
    @rule(data=st.data())
    def close_load(self, data: st.DataObject) -> None:
        able = sorted(n for n, r in self.ranks.items() if r.loading)
        connection = data.draw(st.sampled_from(able))
        number = data.draw(st.sampled_from(sorted(self.ranks[connection].loading)))
        self.end_load(connection, number)

    def end_load(self, connection: int, number: int) -> None:
        _, extents = self.ranks[connection].loading.pop(number)
        self.readers.subtract(slots_of(extents))
        self.do(LoadClosed(connection, number))

    @precondition(lambda self: self.unanswered)
    @rule(data=st.data())
    def waits_no_more(self, data: st.DataObject) -> None:
        """A load is closed before it is answered."""
        number = data.draw(st.sampled_from(sorted(self.unanswered)))
        self.unanswered.discard(number)
        self.do(LoadClosed(self.closable[number], number))

    # the disk

    @precondition(lambda self: self.writing is not None)
    @rule(outcome=st.sampled_from(["written", "written", "failed", "full"]))
    def disk_wrote(self, outcome: str) -> None:
        writing, self.writing = self.writing, None
        assert writing is not None
        what, extents = writing.what, writing.extents
        found = b"".join(bytes(self.arena[e.arena_offset : e.arena_end]) for e in extents)
        assert found == content(what.key.transfer_id, 0, what.total_bytes)
        self.readers.subtract(slots_of(extents))
        if outcome != "written":
            self.do(SpillWriteFailed(what.key, outcome, outcome == "full"))
            return
        self.carry_out_drops()
        self.files[what.key] = what, found
        assert sum(file_bytes(one) for one, _ in self.files.values()) <= DISK
        self.do(SpillWritten(what.key))

    @precondition(lambda self: self.arriving)
    @rule(data=st.data(), damaged=st.booleans())
    def disk_read(self, data: st.DataObject, damaged: bool) -> None:
        key = data.draw(st.sampled_from(sorted(self.arriving)))
        reading = self.arriving.pop(key)
        self.carry_out_drops()
        if key not in self.files:  # It was forgotten meanwhile.
            self.no_writer(key)
            self.do(SpillUnreadable(key, "damaged"))
            return
        what, found = self.files[key]
        assert what == reading.what
        for flat, at, length in reading.extents:
            assert self.writers[at // SLOT] == key
            self.arena[at : at + length] = found[flat : flat + length]
        self.no_writer(key)
        self.do(SpillUnreadable(key, "damaged") if damaged else SpillRead(key))

    def carry_out_drops(self) -> None:
        """The disk does things in the order in which they were asked for."""
        for effect in [e for e in self.todo if isinstance(e, DropSpilled)]:
            self.files.pop(effect.key, None)

    @rule(data=st.data(), slot=st.integers(-1, COUNT), start=st.integers(-1, 2 * SLOT))
    def misbehave(self, data: st.DataObject, slot: int, start: int) -> None:
        """What it may not say changes nothing."""
        connection = self.some_rank(data)
        if connection is None or slot in self.ranks[connection].slots:
            return
        granted = {s for e in self.todo if isinstance(e, GrantSlots) for s in e.slots}
        if slot in granted:
            return  # it is the engine's already, though it has not heard of it
        before = self.pool.snapshot()
        for event in (
            SlotsReturned(connection, (slot,)),
            SlotFilled(connection, "t0", slot, (Extent(0, max(0, slot) * SLOT, 1),)),
            SlotsRequested(connection, 0),
            LoadOpened(connection, 10_000, 0, 17, 16, prefix("t0").digests),
            LoadOpened(connection, 10_000, 0, 32, 16, prefix("t0").digests),
        ):
            with pytest.raises(EngineError):
                self.pool.handle(event, now=self.now)
        if self.ranks[connection].slots and start != 0:
            mine = self.ranks[connection].slots[0]
            extent = Extent(0, mine * SLOT + start, SLOT)
            with pytest.raises(EngineError):
                self.pool.handle(SlotFilled(connection, "t0", mine, (extent,)), now=self.now)
        assert self.pool.snapshot() == before

    # the link, inwards

    @rule(data=st.data(), size=SIZES, life=st.integers(1, 60), again=st.integers(0, 4))
    def offer(self, data: st.DataObject, size: int, life: int, again: int) -> None:
        self.epoch += 1
        key = TransferKey(self.name(data), 0, 1_000_000 + self.epoch)
        if not again and self.offered:  # No sender of ours does this; a peer may.
            key = data.draw(st.sampled_from(self.offered))
        self.offered.append(key)
        name = key.transfer_id
        offer = TransferOffer(
            key,
            LAYOUT.fingerprint(),
            0,
            16,
            size,
            float(life),
            prompt_digest=MOCK_DIGEST,
            readers=READERS,
        )
        effects = self.do(OfferReceived("there", offer))
        answers = [e for e in effects if isinstance(e, AcceptOffer | RefuseOffer)]
        (answer,) = answers
        if isinstance(answer, AcceptOffer):
            assert len(answer.slots) * SLOT >= size
            self.receives[key] = Receiving(size, answer.slots)
            self.known[name] = size

    @precondition(lambda self: self.receives)
    @rule(data=st.data())
    def arrives(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.receives)))
        flat = data.draw(st.integers(0, self.receives[key].total - 1))
        self.store(key, flat, data.draw(st.integers(flat + 1, self.receives[key].total)))

    @precondition(lambda self: self.receives)
    @rule(data=st.data(), fail=st.booleans())
    def link_lets_go(self, data: st.DataObject, fail: bool) -> None:
        key = data.draw(st.sampled_from(sorted(self.receives)))
        if not fail:
            self.store(key, 0, self.receives[key].total)
        if key in self.receives:  # it may have been abandoned meanwhile
            self.let_go(key, fail)

    def store(self, key: TransferKey, start: int, end: int) -> None:
        """The link writes what it lacks of [start, end)."""
        receiving = self.receives[key]
        for first, last in receiving.stored.add(start, end):
            for position in range(first, last):
                slot = receiving.slots[position // SLOT]
                assert self.writers[slot] == key
                byte = content(key.transfer_id, position, 1)[0]
                self.arena[slot * SLOT + position % SLOT] = byte
            self.do(RangeStored(key, first, last - first))

    def let_go(self, key: TransferKey, fail: bool) -> None:
        del self.receives[key]
        self.no_writer(key)
        self.do(ReceptionFailed(key, "line lost") if fail else TransferReceived(key))

    # the link, outwards

    @precondition(lambda self: self.held_by_link)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.release_one(data.draw(st.integers(0, len(self.held_by_link) - 1)))

    def release_one(self, which: int) -> None:
        event = self.held_by_link.pop(which)
        self.readers[event.slot] -= 1
        self.do(event)

    @precondition(lambda self: any(not s.over for s in self.sends.values()))
    @rule(data=st.data(), fail=st.booleans())
    def send_ends(self, data: st.DataObject, fail: bool) -> None:
        key = data.draw(st.sampled_from(sorted(k for k, s in self.sends.items() if not s.over)))
        sending = self.sends[key]
        if not fail and sending.added.total < sending.total:
            self.do(SendProgressed(key, sending.added.total))
            return
        sending.over = True
        self.do(SendFailed(key, "line lost") if fail else SendCompleted(key))

    # gateway, time, driver

    @rule(often=st.integers(0, 3))
    def names_change(self, often: int) -> None:
        """Nothing is cached, pinned or on disk under the names of before, whatever goes on."""
        if often:
            return
        transfers = self.pool.snapshot()
        self.do(NamesChanged())
        assert not self.cached
        found = self.pool.snapshot()
        assert (found.pinned, found.disk_used_bytes, self.pool.cached()) == ((), 0, [])
        assert found.imports == transfers.imports
        assert all(entry.readers for entry in found.cached)

    @rule(data=st.data(), what=st.sampled_from(["close", "drop", "cancel", "withdraw", "prompt"]))
    def trouble(self, data: st.DataObject, what: str) -> None:
        connection = self.some_rank(data)
        if what == "close" and self.ranks:
            self.close(data.draw(st.sampled_from(sorted(self.ranks))))
        elif what == "drop" and connection is not None:
            self.ranks[connection].dropped = True
            self.do(EngineDropped(connection))
        elif what == "cancel":
            self.do(TransferCancelled(self.name(data)))
        elif what == "withdraw":
            self.epoch += 1
            key = TransferKey(self.name(data), 0, 1_000_000 + self.epoch)
            self.do(OfferWithdrawn(key, "given up"))
        elif what == "prompt":
            self.prompt = not self.prompt

    @rule(passed=st.sampled_from([0.0, 0.5, 2.5, 20.0]))
    def time_passes(self, passed: float) -> None:
        self.now += passed
        self.do(TimePassed())

    @precondition(lambda self: self.todo)
    @rule(count=st.integers(1, 10))
    def carry_out(self, count: int) -> None:
        for _ in range(min(count, len(self.todo))):
            self.carry_out_one(self.todo.popleft())

    def carry_out_all(self) -> None:
        while self.todo:
            self.carry_out_one(self.todo[0])
            self.todo.popleft()

    def carry_out_one(self, effect: AnyEffect) -> None:
        match effect:
            case GrantSlots(connection, slots) if connection in self.ranks:
                self.ranks[connection].slots.extend(slots)
            case StartSend(_, offer):
                self.sends[offer.key] = Sending(offer.total_bytes)
            case SendSlot(key, slot, extents):
                for extent in extents:
                    new = self.sends[key].added.add(extent.flat_offset, extent.flat_end)
                    assert new == [(extent.flat_offset, extent.flat_end)], "sent twice"
                    self.held_by_link.append(ExtentReleased(key, slot))
            case CancelSend(key, reason) if not self.sends[key].over:
                self.sends[key].over = True
                self.do(SendFailed(key, reason))
            case ForgetSend(key):
                assert self.sends[key].over
            case AbandonReception(key, reason) if key in self.receives:
                self.let_go(key, True)
            case DropSpilled(key):
                self.files.pop(key, None)
            case ServeLeases():
                self.do(LeasesCameDue())
            case CopySlot(key, slot, copies):
                for source, target, length in copies:
                    self.arena[target : target + length] = self.arena[source : source + length]
                self.readers[slot] -= 1
                self.do(SlotCopied(key, slot))

    # what must always hold

    @invariant()
    def integrity(self) -> None:
        self.pool.check_integrity()
        announced = {key: (layout, found) for key, layout, found in map(told, self.pool.cached())}
        assert {key: found for key, (_, found) in announced.items()} == self.cached
        assert {told.key: told.tier for told in self.pool.cached()} == self.tiers

    @invariant()
    def readers_see_what_was_handed_over(self) -> None:
        for rank in self.ranks.values():
            loaded = [(name, [extents]) for name, extents in rank.loading.values()]
            for transfer_id, every in [*rank.reading.items(), *loaded]:
                for extents in every:
                    position = 0
                    for flat, at, length in extents:
                        assert flat == position
                        found = bytes(self.arena[at : at + length])
                        assert found == content(transfer_id, flat, length)
                        position += length

    def teardown(self) -> None:
        """When every party has let go, every question is answered and every slot free."""
        self.carry_out_all()
        for key in list(self.receives):
            self.let_go(key, True)
        for key, sending in self.sends.items():
            if not sending.over:
                sending.over = True
                self.do(SendFailed(key, "the end"))
        while self.held_by_link:
            self.release_one(0)
        while self.writing is not None:
            self.disk_wrote("written")
        for key in list(self.arriving):
            reading = self.arriving.pop(key)
            self.no_writer(reading.what.key)
            self.do(SpillUnreadable(key, "damaged"))
        assert not self.unanswered, "a load has no answer"
        self.now += 1000.0
        for name in self.pool.snapshot().pinned:
            self.do(PrefixUnpinned(name))
        for name in self.known:
            self.do(TransferCancelled(name))
        self.do(TimePassed())
        self.carry_out_all()
        for rank in self.ranks.values():
            assert rank.dropped or not rank.unanswered.total(), "an import has no answer"
        for connection in list(self.ranks):
            self.close(connection)
        self.carry_out_all()
        while self.writing is not None:
            self.disk_wrote("written")
        self.pool.check_integrity()
        assert {e.transfer_id for e in self.pool.disk.views()} == {
            key.transfer_id for key in self.files
        }
        snapshot = self.pool.snapshot()
        assert snapshot.slots.free + snapshot.slots.cached == COUNT
        assert snapshot.exports == snapshot.receptions == snapshot.imports == 0
        ends = snapshot.counters.exports_complete + snapshot.counters.exports_failed
        assert ends == self.begun, "exactly one end per export"


def told(announced: AnnounceCached) -> tuple[TransferKey, str, Prefix]:
    return announced.key, announced.layout, announced.prefix


def slots_of(extents: tuple[Extent, ...]) -> list[int]:
    """Every slot that any byte of the extents lies in."""
    return [
        slot
        for _, at, length in extents
        for slot in range(at // SLOT, (at + length - 1) // SLOT + 1)
    ]


PoolMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
TestPool = PoolMachine.TestCase
