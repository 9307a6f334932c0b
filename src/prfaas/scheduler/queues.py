"""What waits, and how long that takes: for whoever admits requests.

Theory of operation. A request waits while it is PARKED, WAITING for a prefill place, or READY for a
decode slot. Every route ends in a decode slot, so the wait for one is a lower bound of the wait for
a first token. It is estimated from how often slots came free *while requests waited for them*: a
rate measured while nobody waits would say how little was asked for. Until a few have, nothing is
known, and no wait is expected.
"""

from __future__ import annotations

from prfaas.scheduler.lifecycle import State
from prfaas.scheduler.state import Record

_WAITS = frozenset({State.PARKED, State.WAITING, State.READY})
_HOLDS_A_SLOT = frozenset({State.DECODING, State.STREAMING})
_KNOWN = 8
"""So many slots must have come free before their rate says anything."""
_FADES = 0.98
"""What one of them weighs after the next: about the last fifty count."""


class Queues:
    """Counts of the live requests that wait; told of each move."""

    def __init__(self) -> None:
        self.tokens = 0
        """Prompt tokens of all that wait."""
        self.sequences = 0
        """Sequences that wait for a decode slot with nothing else missing."""
        self._seen = 0
        self._freed = self._waited_s = 0.0
        """Slots that came free while some waited, and the seconds of waiting; both fade."""
        self._since = 0.0

    def moved(self, record: Record, old: State, new: State, now: float) -> None:
        """A request went from ``old`` to ``new``."""
        if old in _HOLDS_A_SLOT and new not in _HOLDS_A_SLOT:
            self._slot_freed(record, now)
        self.tokens += record.total_tokens * ((new in _WAITS) - (old in _WAITS))
        change = record.sequences * ((new is State.READY) - (old is State.READY))
        if change:
            self._count_waiting(now)
            self.sequences += change

    def slot_wait_s(self, sequences: int) -> float:
        """How long a request of so many sequences would wait for its slots if it needed them now;
        0 where nobody waits, or where nothing is known."""
        if not self.sequences or self._seen < _KNOWN:
            return 0.0
        return (self.sequences + sequences) * self._waited_s / self._freed

    def _slot_freed(self, record: Record, now: float) -> None:
        if self.sequences:
            self._count_waiting(now)
            self._freed = self._freed * _FADES + record.sequences
            self._waited_s *= _FADES
            self._seen += 1

    def _count_waiting(self, now: float) -> None:
        if self.sequences:
            self._waited_s += now - self._since
        self._since = now
