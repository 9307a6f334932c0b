"""A pool that is always full: prefixes come, are loaded, pinned, copied and evicted, engines die.

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
from prfaas.pool.effects import AcceptOffer, AnswerLoad, AnyEffect, CancelSend, SendSlot, StartSend
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
from prfaas.pool.pool import Pool
from prfaas.testing.mock_engine_rank import MOCK_DIGEST, READERS, mock_layout
from prfaas.testing.pool_kit import under_own_names

SLOT_BYTES, SLOTS, EXPORT_SLOTS, CACHE_SLOTS = 1024, 96, 16, 48
_BLOCK = 16
_SESSIONS, _LONGEST_TURNS = 40, 6
_ROOT = root_digest("churn", adapter=None, salt=None)


class Churn:
    """``done`` counts what was done, by kind."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._layout = mock_layout()
        self.pool = Pool(
            "here",
            slot_bytes=SLOT_BYTES,
            slot_count=SLOTS,
            export_slots=EXPORT_SLOTS,
            engines=frozenset({"a", "b"}),
            cache_slots=CACHE_SLOTS,
            longest_deadline_s=600.0,
        )
        self.done: Counter[str] = Counter()
        self._now, self._number = 0.0, 0
        self._turns: dict[int, int] = {}
        self._loads: list[tuple[int, int]] = []
        self._sends: dict[TransferKey, list[int]] = {}
        """Copies that the link has: the slots of extents that it reads."""
        self._connections = {"a": 1, "b": 2}
        for name, number in self._connections.items():
            self._say(EngineConnected(number, name, number, self._layout))

    def step(self) -> None:
        """One thing happens. Raises InvariantError where the books do not agree with it."""
        kind = self._rng.choices(
            (self._turn, self._load, self._unload, self._copy, self._copied, self._pin, self._dies),
            weights=(40, 25, 20, 6, 6, 2, 1),
        )[0]
        kind()
        self._now += self._rng.random()
        self._say(TimePassed())
        self.pool.check_integrity()
        slots = self.pool.snapshot().slots
        used = slots.leased + slots.queued + slots.held + slots.cached
        if used + slots.free != SLOTS or slots.cached > CACHE_SLOTS:
            raise InvariantError(f"slots are lost: {slots}")

    def end(self) -> None:
        """Everybody lets go; every slot is free or cached then."""
        while self._loads:
            self._unload()
        while self._sends:
            self._copied()
        for name in self.pool.snapshot().pinned:
            self._say(PrefixUnpinned(name))
        self._now += 1000.0
        self._say(TimePassed())
        self.pool.check_integrity()
        slots = self.pool.snapshot().slots
        if slots.free + slots.cached != SLOTS:
            raise InvariantError(f"slots are lost: {slots}")

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
        effects = self._say(LoadOpened(by, number, 0, end, _BLOCK, names))
        if any(isinstance(effect, AnswerLoad) for effect in effects):
            self._loads.append((by, number))
            self.done["loaded"] += 1
        else:
            self.done["not loaded"] += 1

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

    def _say(self, event: AnyEvent) -> Sequence[AnyEffect]:
        effects = self.pool.handle(event, now=self._now)
        for effect in effects:
            if isinstance(effect, StartSend):
                self._sends[effect.offer.key] = []
            elif isinstance(effect, SendSlot):
                self._sends[effect.key] += [effect.slot] * len(effect.extents)
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
