"""What waits, and how long that takes: for whoever admits requests.

Theory of operation. A request waits while it is PARKED, WAITING for a prefill place, or READY for a
decode slot. Every route ends in a decode slot, so the wait for one is a lower bound of the wait for
a first token. It is estimated from how often slots came free *while requests waited for them*: a
rate measured while nobody waits would say how little was asked for. Until a few have, nothing is
known, and no wait is expected. Requests that only some engines serve, adapters', wait in a line of
their own: where their engines are full others need not be. And a tenant waits for its turn alone
(`turns`): others' requests come before its own by their weight, however many more there are.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from prfaas.scheduler.lifecycle import State
from prfaas.scheduler.state import Record

_WAITS = frozenset({State.PARKED, State.WAITING, State.READY})
_HOLDS_A_SLOT = frozenset({State.DECODING, State.STREAMING})
_KNOWN = 8
"""So many slots must have come free before their rate says anything."""
_FADES = 0.98
"""What one of them weighs after the next: about the last fifty count."""


class Asker(NamedTuple):
    """Whose request it is; see `turns.Waiter`."""

    tenant: str = ""
    tenant_class: int = 0
    weight: float = 1.0


ANYBODY = Asker()


class SlotWaits:
    """One line for decode slots."""

    def __init__(self) -> None:
        self.sequences = 0
        """That wait with nothing else missing."""
        self._of: dict[Asker, int] = {}
        """By whose they are."""
        self._seen = 0
        self._freed = self._waited_s = 0.0
        """Slots that came free while some waited, and the seconds of waiting; both fade."""
        self._since = 0.0

    def wait_s(self, sequences: int, asker: Asker) -> float:
        """How long so many more would wait; 0 where nobody does, or where nothing is known."""
        if not self.sequences or self._seen < _KNOWN:
            return 0.0
        return self._with_those_before(sequences, asker) * self._waited_s / self._freed

    def _with_those_before(self, sequences: int, asker: Asker) -> float:
        """So many more, and all whose turn comes before theirs."""
        own = sequences + sum(n for other, n in self._of.items() if other.tenant == asker.tenant)
        found = float(own)
        for other, waiting in self._of.items():
            if other.tenant != asker.tenant and other.tenant_class < asker.tenant_class:
                found += waiting
            elif other.tenant != asker.tenant and other.tenant_class == asker.tenant_class:
                found += min(waiting, own * other.weight / asker.weight)
        return found

    def changed(self, sequences: int, whose: Asker, now: float) -> None:
        """So many more wait, or fewer."""
        self._count(now)
        self.sequences += sequences
        left = self._of[whose] = self._of.get(whose, 0) + sequences
        if not left:
            del self._of[whose]

    def freed(self, slots: int, now: float) -> None:
        """So many have come free, anywhere."""
        if self.sequences:
            self._count(now)
            self._freed = self._freed * _FADES + slots
            self._waited_s *= _FADES
            self._seen += 1

    def _count(self, now: float) -> None:
        if self.sequences:
            self._waited_s += now - self._since
        self._since = now


class Queues:
    """Counts of the live requests that wait; told of each move."""

    def __init__(self) -> None:
        self.tokens = 0
        """Prompt tokens of all that wait."""
        self.tokens_of: Counter[str] = Counter()
        """The same by tenant, where it has any."""
        self.of_all, self.of_some = SlotWaits(), SlotWaits()
        """Requests that every engine serves, and others."""

    def moved(self, record: Record, old: State, new: State, now: float) -> None:
        """A request went from ``old`` to ``new``."""
        if old in _HOLDS_A_SLOT and new not in _HOLDS_A_SLOT:
            self.of_all.freed(record.sequences, now)
            self.of_some.freed(record.sequences, now)
        tokens = record.total_tokens * ((new in _WAITS) - (old in _WAITS))
        if tokens:
            self.tokens += tokens
            self.tokens_of[record.tenant] += tokens
            if not self.tokens_of[record.tenant]:
                del self.tokens_of[record.tenant]
        change = record.sequences * ((new is State.READY) - (old is State.READY))
        if change:
            whose = Asker(record.tenant, record.tenant_class, record.weight)
            (self.of_all if record.serves is None else self.of_some).changed(change, whose, now)

    def slot_wait_s(self, sequences: int, asker: Asker = ANYBODY, *, by_all: bool = True) -> float:
        """How long a request of so many sequences would wait for a decode slot. ``by_all``: every
        engine serves it."""
        return (self.of_all if by_all else self.of_some).wait_s(sequences, asker)
