"""The live requests and the one way that each of them moves.

Theory of operation. A `Requests` holds what the parts of the scheduler share while one event is
handled: the time, the commands that have come of it so far, the live requests and their timers. A
part that has news of a request says `trigger`; the transition table says which action that is in
the request's state, and the action calls `move`, which goes only where the table leads. So the
parts need not know each other: they meet in the table.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from math import inf

from prfaas.core.errors import InvariantError
from prfaas.scheduler.commands import AnyCommand
from prfaas.scheduler.lifecycle import TABLE, TERMINAL, Action, State, Trigger, successors
from prfaas.scheduler.queues import Queues
from prfaas.scheduler.state import Record
from prfaas.scheduler.timers import Timer, TimerKind, Timers

Handler = Callable[[Record, str], None]
"""What an `Action` does to a request, and why: one line for people, empty where nothing failed."""


_OF_NO_REQUEST = frozenset({TimerKind.LINK, TimerKind.CUT, TimerKind.SLOW_LINE, TimerKind.ADJUST})


class Requests:
    """``now`` and ``out`` are set by `Scheduler.handle` for each event."""

    def __init__(self) -> None:
        self.now = -inf
        self.out: list[AnyCommand] = []
        self.records: dict[str, Record] = {}
        self.queues = Queues()
        self.parked: OrderedDict[str, Record] = OrderedDict()
        """Those in PARKED, in the order they came there."""
        self.timers = Timers(self._is_stale)
        self._allowed = [frozenset(to) for _, to in sorted(successors().items())]
        self._handlers: dict[tuple[State, Trigger], Handler] = {}

    def bind(self, handlers: Mapping[Action, Handler]) -> None:
        """Say what each action of the table does. Once, before the first event."""
        self._handlers = {key: handlers[step.action] for key, step in TABLE.items()}

    def handler(self, state: State, trigger: Trigger) -> Handler | None:
        """What a row of the table does; None where there is no such row."""
        return self._handlers.get((state, trigger))

    def trigger(self, record: Record, trigger: Trigger, why: str) -> None:
        """Run the row for this request's state, if there is one."""
        handler = self._handlers.get((record.state, trigger))
        if handler is not None:
            handler(record, why)

    def trigger_each(self, records: Mapping[str, Record], trigger: Trigger, why: str) -> None:
        """The same for many; the collection may change on the way."""
        for record in list(records.values()):
            if record.state not in TERMINAL:
                self.trigger(record, trigger, why)

    def move(self, record: Record, state: State) -> None:
        """Let a request go from where it stands to ``state``. Raises InvariantError where the table
        does not lead there."""
        if state not in self._allowed[record.state]:
            raise InvariantError(f"{record.request_id}: {record.state.name} -> {state.name}")
        if record.state is State.PARKED:
            del self.parked[record.request_id]
        elif state is State.PARKED:
            self.parked[record.request_id] = record
        self.queues.moved(record, record.state, state, self.now)
        record.state = state
        if state in TERMINAL:
            del self.records[record.request_id]

    def _is_stale(self, timer: Timer) -> bool:
        """Whether a request's timer can no longer move it (lines and the policy have their own)."""
        if timer.kind in _OF_NO_REQUEST:
            return False
        record = self.records.get(timer.key) if isinstance(timer.key, str) else None
        if record is None:
            return True
        if record.state is State.STREAMING:
            return True
        if timer.kind is TimerKind.DEADLINE:
            return False
        sending = record.state is State.SENDING
        return timer.attempt != record.attempt or (timer.kind is TimerKind.STALL and not sending)
