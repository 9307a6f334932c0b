"""A pool that is always full: prefixes come, are loaded, pinned, copied, written to a small disk,
read back and evicted; engines die, the disk fails, the agent begins anew with its files.

One seed gives one run. Every step is checked by the pool's own books; at the end everybody lets go,
and every slot must be free or cached.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from prfaas.core.errors import CapacityError, InvariantError
from prfaas.core.prefixes import Prefix, chain, root_digest, stretch
from prfaas.link.api import TransferKey, TransferOffer
from prfaas.pool.disk_events import (
    SpillFound,
    SpillRead,
    SpillUnreadable,
    SpillWriteFailed,
    SpillWritten,
)
from prfaas.pool.effects import (
    AcceptOffer,
    AnswerLoad,
    AnyEffect,
    CancelSend,
    DropSpilled,
    FailLoad,
    ReadSpilled,
    SendSlot,
    StartSend,
    WriteSpilled,
)
from prfaas.pool.events import (
    AnyEvent,
    ConnectionClosed,
    CopyRequested,
    EngineConnected,
    ExtentReleased,
    ImportClosed,
    ImportOpened,
    LeasesCameDue,
    LoadClosed,
    LoadOpened,
    OfferReceived,
    PrefixPinned,
    PrefixUnpinned,
    RangeStored,
    SendCompleted,
    SendFailed,
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

SLOT_BYTES, SLOTS, EXPORT_SLOTS, CACHE_SLOTS = 1024, 96, 16, 48
DISK_BYTES = 40 * 3 * ALIGN
"""Several times what memory holds, and less than all that is asked for."""
_BLOCK = 16
_SESSIONS, _LONGEST_TURNS = 40, 6
_ROOT = root_digest("churn", adapter=None, salt=None)


class Churn:
    """``done`` counts what was done, by kind."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._layout = mock_layout()
        self.done: Counter[str] = Counter()
        self._now, self._number = 0.0, 0
        self._files: dict[TransferKey, KeptPrefix] = {}
        """What a disk holds that outlives the pool; what was used last comes last."""
        self.evicted = 0
        self._begin()

    def _begin(self) -> None:
        self.pool = Pool(
            "here",
            slot_bytes=SLOT_BYTES,
            slot_count=SLOTS,
            export_slots=EXPORT_SLOTS,
            engines=frozenset({"a", "b"}),
            first_epoch=self._number << 20,
            cache_slots=CACHE_SLOTS,
            disk_bytes=DISK_BYTES,
            longest_deadline_s=600.0,
        )
        self._turns: dict[int, int] = {}
        self._loads: list[tuple[int, int]] = []
        self._sends: dict[TransferKey, list[int]] = {}
        """Copies that the link has: the slots of extents that it reads."""
        self._disk: list[WriteSpilled | ReadSpilled] = []
        """What it has been told to do."""
        self._connections = {"a": self._new(), "b": self._new()}
        for name, number in self._connections.items():
            self._say(EngineConnected(number, name, number, self._layout))
        for what in list(self._files.values()):
            self._say(SpillFound(what))

    def step(self) -> None:
        """One thing happens. Raises InvariantError where the books do not agree with it."""
        kind = self._rng.choices(
            (
                self._turn, self._load, self._unload, self._copy, self._copied, self._pin,
                self._dies, self._disk_does, self._begins_anew,
            ),
            weights=(40, 25, 20, 6, 6, 2, 1, 60, 0.05),
        )[0]  # fmt: skip
        kind()
        self._now += self._rng.random()
        self._say(TimePassed())
        self.pool.check_integrity()
        slots = self.pool.snapshot().slots
        used = slots.leased + slots.queued + slots.held + slots.cached
        if used + slots.free != SLOTS or slots.cached > CACHE_SLOTS:
            raise InvariantError(f"slots are lost: {slots}")
        if sum(map(file_bytes, self._files.values())) > DISK_BYTES:
            raise InvariantError("there is more on disk than may be")

    def end(self) -> None:
        """Everybody lets go; every slot is free or cached then."""
        while self._disk:
            self._disk_does()
        while self._loads:
            self._unload()
        while self._sends:
            self._copied()
        for name in self.pool.snapshot().pinned:
            self._say(PrefixUnpinned(name))
        self._now += 1000.0
        self._say(TimePassed())
        self.pool.check_integrity()
        while self._disk:
            self._disk_does()
        self.evicted += self.pool.snapshot().counters.cache_evicted
        slots = self.pool.snapshot().slots
        if slots.free + slots.cached != SLOTS:
            raise InvariantError(f"slots are lost: {slots}")
        on_disk = {entry.transfer_id for entry in self.pool.disk.views()}
        if on_disk != {key.transfer_id for key in self._files}:
            raise InvariantError("the books know other files than there are")

    def _turn(self) -> None:
        """A session's next turn arrives from another agent, is read, and is over."""
        session = self._rng.randrange(_SESSIONS)
        turn = self._turns.get(session, 0) % _LONGEST_TURNS
        self._turns[session] = turn + 1
        start, end = turn * 2 * _BLOCK, (turn + 1) * 2 * _BLOCK
        size = self._rng.randint(1, 6) * SLOT_BYTES - self._rng.randrange(SLOT_BYTES)
        key = self._key(f"s{session}-{self._new()}")
        offer = TransferOffer(
            key, self._layout.fingerprint(), start, end, size, 60.0,
            prompt_digest=MOCK_DIGEST, readers=READERS,
        )  # fmt: skip
        answers = self._say(OfferReceived("there", offer))
        if not any(isinstance(answer, AcceptOffer) for answer in answers):
            self.done["refused"] += 1
            return
        self._say(RangeStored(key, 0, size))
        self._say(TransferReceived(key))
        by, name = self._connections["b"], key.transfer_id
        self._say(ImportOpened(by, name, start, end, size, MOCK_DIGEST))
        self._say(TransferDescribed(by, name, self._prefix(session, start, end)))
        self._say(ImportClosed(by, name))
        self._say(TransferCancelled(name))
        self.done["turns"] += 1

    def _load(self) -> None:
        session = self._rng.randrange(_SESSIONS)
        end = self._rng.randint(1, _LONGEST_TURNS) * 2 * _BLOCK
        names = chain(_ROOT, _tokens(session, end), _BLOCK)
        by, number = self._connections[self._rng.choice("ab")], self._new()
        self._say(LoadOpened(by, number, 0, end, _BLOCK, names))
        if self._rng.random() < 0.05:
            self._say(LoadClosed(by, number))  # whether it has been answered or not
            self._loads = [load for load in self._loads if load != (by, number)]

    def _unload(self) -> None:
        if self._loads:
            index = self._rng.randrange(len(self._loads))
            self._say(LoadClosed(*self._loads.pop(index)))

    def _copy(self) -> None:
        cached = self.pool.snapshot().cached
        if cached:
            entry = self._rng.choice(cached)
            self._say(CopyRequested(entry.transfer_id, f"c{self._new()}", "there", 60.0))

    def _copied(self) -> None:
        """The link lets go of one, which arrived or did not."""
        if not self._sends:
            return
        key = self._rng.choice(list(self._sends))
        for slot in self._sends.pop(key):
            self._say(ExtentReleased(key, slot))
        arrived = self._rng.random() < 0.8
        self._say(SendCompleted(key) if arrived else SendFailed(key, "the line broke"))
        self.done["copied" if arrived else "not copied"] += 1

    def _pin(self) -> None:
        snapshot = self.pool.snapshot()
        if snapshot.pinned and self._rng.random() < 0.5:
            self._say(PrefixUnpinned(self._rng.choice(snapshot.pinned)))
        elif snapshot.cached:
            try:
                self._say(PrefixPinned(self._rng.choice(snapshot.cached).transfer_id))
                self.done["pinned"] += 1
            except CapacityError:
                self.done["not pinned"] += 1

    def _dies(self) -> None:
        """An engine, with its loads; another takes its place."""
        name = self._rng.choice("ab")
        old, new = self._connections[name], self._new()
        self._loads = [load for load in self._loads if load[0] != old]
        self._say(ConnectionClosed(old))
        self._connections[name] = new
        self._say(EngineConnected(new, name, new, self._layout))
        self.done["died"] += 1

    def _disk_does(self) -> None:
        """What it was told first, well or not."""
        if not self._disk:
            return
        effect = self._disk.pop(0)
        what, chance = effect.what, self._rng.random()
        if isinstance(effect, WriteSpilled):
            if chance < 0.02:
                self._say(SpillWriteFailed(what.key, "it fails", chance < 0.01))
            else:
                self._files[what.key] = what
                self._say(SpillWritten(what.key))
                self.done["written"] += 1
        elif what.key not in self._files or chance < 0.02:
            self._say(SpillUnreadable(what.key, "it is damaged"))
            self.done["unreadable"] += 1
        else:
            self._files[what.key] = self._files.pop(what.key)
            self._say(SpillRead(what.key))
            self.done["read back"] += 1

    def _begins_anew(self) -> None:
        """The agent is killed; of all that it had, the files are left."""
        self.evicted += self.pool.snapshot().counters.cache_evicted
        self._begin()
        self.done["agent killed"] += 1

    def _say(self, event: AnyEvent) -> Sequence[AnyEffect]:
        effects = self.pool.handle(event, now=self._now)
        for effect in effects:
            if isinstance(effect, StartSend):
                self._sends[effect.offer.key] = []
            elif isinstance(effect, SendSlot):
                self._sends[effect.key] += [effect.slot] * len(effect.extents)
            elif isinstance(effect, WriteSpilled | ReadSpilled):
                self._disk.append(effect)
            elif isinstance(effect, DropSpilled):
                self._files.pop(effect.key, None)
            elif isinstance(effect, AnswerLoad):
                self._loads.append((effect.connection, effect.load))
                self.done["loaded"] += 1
            elif isinstance(effect, FailLoad):
                self.done["not loaded"] += 1
            elif isinstance(effect, CancelSend) and effect.key in self._sends:
                pass  # The link lets go of it as of others, later.
        self.pool.handle(LeasesCameDue(), now=self._now)
        return effects

    def _prefix(self, session: int, start: int, end: int) -> Prefix:
        tokens = _tokens(session, end)
        found = stretch(
            chain(_ROOT, tokens, _BLOCK), _ROOT, tokens, block_tokens=_BLOCK,
            from_token=start, to_token=end, salt=None, adapter=None,
        )  # fmt: skip
        assert found is not None
        return under_own_names(found)

    def _key(self, name: str) -> TransferKey:
        return TransferKey(name, 0, self._number)

    def _new(self) -> int:
        self._number += 1
        return 1000 + self._number


def _tokens(session: int, count: int) -> list[int]:
    """All sessions begin with one system prompt of two blocks."""
    own = range(1_000_000 * (session + 1), 1_000_000 * (session + 1) + count)
    return [*range(2 * _BLOCK), *own][:count]
