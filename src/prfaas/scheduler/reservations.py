"""What an attempt has reserved, and given back exactly once.

Theory of operation. An *attempt* is one route tried. It reserves a place on a prefill engine, bytes
on a line, an assignment to a decode engine and a decode slot. `Reservations` keeps the books of
these on `EngineState` and `LinkState`; giving a prefill place back starts whoever waits for it.
"""

from __future__ import annotations

from prfaas.policies.views import Costs, PrefillLearner
from prfaas.scheduler.commands import CancelDecode, CancelPrefill, CancelTransfer
from prfaas.scheduler.events import MemoryReported
from prfaas.scheduler.lifecycle import State, Trigger
from prfaas.scheduler.memory import MachineMemory, Memories
from prfaas.scheduler.requests import Requests
from prfaas.scheduler.state import EngineState, LinkState, Record

_LATE = 0.5
"""In units of its expected time: so much longer a prefill may take before it counts as late."""


def fetch_s(record: Record, engine: EngineState) -> float:
    """What it is expected to take to fetch what ``engine`` counts as cached."""
    return record.fetch_s.get(engine.name, 0.0) if record.cached_on(engine) else 0.0


class Reservations:
    """What all live requests have reserved. ``learner``: told which engines are given prefills;
    None: nobody is."""

    def __init__(self, requests: Requests, costs: Costs, learner: PrefillLearner | None) -> None:
        self._requests = requests
        self._costs = costs
        self._learner = learner
        self.memories = Memories()

    def book_prefill(self, record: Record, engine: EngineState) -> None:
        """Count the uncached part of the prompt as work of ``engine``."""
        if self._learner is not None:
            self._learner.prefill_given(engine.name, self._requests.now)
        record.uncached = max(1, record.total_tokens - record.resumable_on(engine))
        record.prefill_s = self._costs.prefill_s(engine.name, record.uncached)
        record.prefill_s += fetch_s(record, engine)
        record.prefill = engine
        engine.book(record.uncached, record.prefill_s, self._requests.now)

    def take_prefill_place(self, record: Record, engine: EngineState) -> bool:
        """Book the prefill with a hand-off; False if it must wait: ``engine`` is full, or there is
        no memory for what it would hand over."""
        self.book_prefill(record, engine)
        record.due_at = engine.free_at + _LATE * record.prefill_s
        engine.prefill_records[record.request_id] = record
        full = len(engine.prefill_records) - len(engine.waiting) > engine.max_prefills
        if full or not self._has_memory(record):
            engine.waiting.add(record, record.uncached)
            return False
        return True

    def book_memory(self, record: Record) -> None:
        """Its prefill starts: there must be room for what it hands over."""
        record.handed_bytes = self._kv_bytes(record)
        self.memories.book(record, record.handed_bytes)

    def release_memory(self, record: Record) -> None:
        """What was handed over is dropped: others may start."""
        self._start_in_line(self.memories.release(record))

    def memory_reported(self, event: MemoryReported) -> None:
        """An agent has counted what is reserved."""
        self._start_in_line(self.memories.reported(event))

    def _start_in_line(self, memory: MachineMemory | None) -> None:
        while memory is not None and (first := memory.line.first()) is not None:
            assert first.prefill is not None
            self.start_waiting(first.prefill)
            if memory.line.first() is first:
                return

    def start_waiting(self, engine: EngineState) -> None:
        """Start what waits for a place on ``engine`` and has memory, in order."""
        waiting = engine.waiting
        while engine.up and len(engine.prefill_records) - len(waiting) < engine.max_prefills:
            following = next(filter(self._has_memory, waiting.in_turn()), None)
            if following is None:
                return
            waiting.serve(following)
            self._requests.trigger(following, Trigger.PLACE_FREED, "")

    def _has_memory(self, record: Record) -> bool:
        return self.memories.may_start(record, self._kv_bytes(record))

    def _kv_bytes(self, record: Record) -> float:
        return self._costs.kv_bytes(record.from_token, record.to_token)

    def book_link(self, record: Record, link: LinkState) -> None:
        """Count the hand-off's bytes as outstanding on ``link``."""
        record.link = link
        record.link_bytes = self._kv_bytes(record)
        link.outstanding_bytes += record.link_bytes
        link.records[record.request_id] = record

    def assign(self, record: Record, engine: EngineState) -> None:
        """Make ``engine`` the one that is to decode, in place of any other."""
        old = record.decode
        if old is engine:
            return
        if old is not None:
            old.assigned -= record.sequences
            old.changed()
            del old.decode_records[record.request_id]
        record.decode = engine
        engine.assigned += record.sequences
        engine.changed()
        engine.decode_records[record.request_id] = record

    def release_prefill(self, record: Record, *, done: bool) -> None:
        """Give the prefill back; ``done``: because it was worked off."""
        engine = record.prefill
        if engine is None:
            return
        record.prefill = None
        engine.unbook(record.uncached, record.prefill_s, self._requests.now, done=done)
        if engine.prefill_records.pop(record.request_id, None) is None:
            return  # Direct: the decode engine's own prefill holds no place.
        engine.waiting.drop(record.request_id)
        moved = self.memories.leave_line(record)
        self.start_waiting(engine)
        self._start_in_line(moved)

    def release_link(self, record: Record, *, arrived: bool) -> None:
        """The hand-off's bytes have ``arrived``, or will not."""
        link = record.link
        if link is None:
            return
        if arrived:
            link.carried_at = self._requests.now
        record.link = None
        del link.records[record.request_id]
        link.outstanding_bytes = link.outstanding_bytes - record.link_bytes if link.records else 0.0

    def release_decode(self, record: Record) -> None:
        """Give the slot or the place in line back, and the assignment."""
        engine = record.decode
        if engine is None:
            return
        if record.state in (State.DECODING, State.STREAMING):
            engine.give_slot(record)
        engine.place.ready.drop(record.request_id)
        record.decode = None
        engine.assigned -= record.sequences
        engine.changed()
        del engine.decode_records[record.request_id]

    def abandon(self, record: Record) -> None:
        """Cancel whatever this attempt has running and give everything back."""
        out = self._requests.out
        rid, attempt, state = record.request_id, record.attempt, record.state
        if state in (State.PREFILLING, State.RECEIVED) and record.prefill is not None:
            out.append(CancelPrefill(rid, attempt, record.prefill.name))
        if state in (State.DECODING, State.STREAMING) and record.decode is not None:
            out.append(CancelDecode(rid, attempt, record.decode.name))
        if record.transfer_id is not None and record.decode is not None:
            sender, receiver = record.transfer_from, record.decode.name
            out.append(
                CancelTransfer(rid, record.transfer_attempt, record.transfer_id, sender, receiver)
            )
            record.transfer_id = None
        self.release_memory(record)
        self.release_prefill(record, done=False)
        self.release_link(record, arrived=False)
        self.release_decode(record)
