"""What an attempt holds, given back exactly once.

Theory of operation. An *attempt* is one route tried: a place on a prefill engine, bytes on a line,
an assignment to a decode engine, a decode slot. `Holdings` keeps the books of these; giving a
prefill place back starts whoever waits for it. `_move` lets a request go only where the transition
table leads.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from math import inf

from prfaas.core.deployment import SchedulerConfig
from prfaas.core.errors import InvariantError
from prfaas.policies.api import Costs, Policy
from prfaas.scheduler.commands import AnyCommand, CancelDecode, CancelPrefill, CancelTransfer
from prfaas.scheduler.lifecycle import TABLE, TERMINAL, State, Trigger, successors
from prfaas.scheduler.state import EngineState, Record, Scene
from prfaas.scheduler.timers import Timer, TimerKind, Timers
from prfaas.scheduler.topology import Topology

Action = Callable[[Record, str], None]


class Holdings:
    """Live requests and what they hold. ``now`` and ``out`` are set by `Scheduler.handle`; the
    actions that the table names are methods of a subclass."""

    def __init__(
        self, topology: Topology, policy: Policy, config: SchedulerConfig, costs: Costs
    ) -> None:
        self.now = -inf
        self.out: list[AnyCommand] = []
        self.records: dict[str, Record] = {}
        self.timers = Timers(self._is_stale)
        self.scene = Scene(topology, costs)
        self._parked: OrderedDict[str, Record] = OrderedDict()
        self._policy = policy
        self._packs_decode = policy.packs_decode
        self._costs = costs
        self._align = self.scene.alignment_tokens
        self._attempt_share = config.attempt_share
        self._max_attempts = config.max_attempts
        self._stall_s = config.transfer_stall_s
        self._engine_wait_s = config.engine_wait_s
        self._allowed = [frozenset(to) for _, to in sorted(successors().items())]
        self._actions: dict[tuple[State, Trigger], Action] = {
            key: getattr(self, step.action) for key, step in TABLE.items()
        }

    def align(self, tokens: int) -> None:
        """From now on hand-offs end at multiples of ``tokens``."""
        self._align = self.scene.alignment_tokens = tokens

    def action(self, state: State, trigger: Trigger) -> Action | None:
        """The bound action of a row of the table; None where there is no such row."""
        return self._actions.get((state, trigger))

    def trigger(self, record: Record, trigger: Trigger, why: str) -> None:
        """Run the row for this request's state, if there is one."""
        step = self._actions.get((record.state, trigger))
        if step is not None:
            step(record, why)

    def each(self, records: dict[str, Record], trigger: Trigger, why: str) -> None:
        """The same for many; the collection may change on the way."""
        for record in list(records.values()):
            if record.state not in TERMINAL:
                self.trigger(record, trigger, why)

    def _is_stale(self, timer: Timer) -> bool:
        """Whether a request's timer can no longer move it (lines and the policy have their own)."""
        if timer.kind is TimerKind.LINK or timer.kind is TimerKind.ADJUST:
            return False
        record = self.records.get(timer.key)  # type: ignore[arg-type]
        if record is None:
            return True
        if record.state is State.STREAMING:
            return True
        if timer.kind is TimerKind.DEADLINE:
            return False
        sending = record.state is State.SENDING
        return timer.attempt != record.attempt or (timer.kind is TimerKind.STALL and not sending)

    def _move(self, record: Record, state: State) -> None:
        if state not in self._allowed[record.state]:
            raise InvariantError(f"{record.request_id}: {record.state.name} -> {state.name}")
        if record.state is State.PARKED:
            del self._parked[record.request_id]
        record.state = state
        if state in TERMINAL:
            del self.records[record.request_id]

    def _book(self, record: Record, engine: EngineState) -> None:
        record.uncached = max(1, record.total_tokens - record.resumable_on(engine))
        record.prefill_s = self._costs.prefill_s(engine.name, record.uncached)
        record.prefill = engine
        engine.book(record.uncached, record.prefill_s, self.now)

    def _limit_attempt(self, record: Record) -> None:
        if record.deadline < inf:
            limit = self.now + (record.deadline - self.now) * self._attempt_share
            self.timers.add(limit, TimerKind.ATTEMPT, record.request_id, record.attempt)

    def _abandon(self, record: Record) -> None:
        """Cancel whatever this attempt has running and give everything back."""
        rid, attempt, state = record.request_id, record.attempt, record.state
        if state in (State.PREFILLING, State.RECEIVED) and record.prefill is not None:
            self.out.append(CancelPrefill(rid, attempt, record.prefill.name))
        if state in (State.DECODING, State.STREAMING) and record.decode is not None:
            self.out.append(CancelDecode(rid, attempt, record.decode.name))
        if record.transfer_id is not None and record.decode is not None:
            self.out.append(
                CancelTransfer(
                    rid,
                    record.transfer_attempt,
                    record.transfer_id,
                    record.transfer_from,
                    record.decode.name,
                )
            )
            record.transfer_id = None
        self._release_prefill(record, done=False)
        self._release_link(record)
        self._release_decode(record)

    def _assign(self, record: Record, engine: EngineState) -> None:
        old = record.decode
        if old is engine:
            return
        if old is not None:
            old.assigned -= 1
            del old.decode_records[record.request_id]
        record.decode = engine
        engine.assigned += 1
        engine.decode_records[record.request_id] = record

    def _release_prefill(self, record: Record, *, done: bool) -> None:
        engine = record.prefill
        if engine is None:
            return
        record.prefill = None
        engine.unbook(record.uncached, record.prefill_s, self.now, done=done)
        if engine.prefill_records.pop(record.request_id, None) is None:
            return  # Direct: the decode engine's own prefill holds no place.
        engine.waiting.pop(record.request_id, None)
        waiting = engine.waiting
        while (
            engine.up
            and waiting
            and len(engine.prefill_records) - len(waiting) < engine.max_prefills
        ):
            _, following = waiting.popitem(last=False)
            self.trigger(following, Trigger.PLACE_FREED, "")

    def _release_link(self, record: Record) -> None:
        link = record.link
        if link is None:
            return
        record.link = None
        del link.records[record.request_id]
        link.outstanding_bytes = link.outstanding_bytes - record.link_bytes if link.records else 0.0

    def _release_decode(self, record: Record) -> None:
        engine = record.decode
        if engine is None:
            return
        if record.state in (State.DECODING, State.STREAMING):
            engine.running -= 1
        engine.place.ready.pop(record.request_id, None)
        record.decode = None
        engine.assigned -= 1
        del engine.decode_records[record.request_id]
