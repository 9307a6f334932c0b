"""The actions from the last byte on: decode slots, retries, ends."""

from __future__ import annotations

from math import inf

from prfaas.policies.api import Route
from prfaas.scheduler import hedging
from prfaas.scheduler.commands import CancelDecode, ErrorKind, FailRequest, StartDecode
from prfaas.scheduler.holdings import Holdings
from prfaas.scheduler.lifecycle import State, Trigger
from prfaas.scheduler.state import ClusterState, EngineState, Hedge, Record
from prfaas.scheduler.timers import TimerKind

_MOST_ENGINES_LOST = 2
"""So many engines may go away while they have a request: one may have died of anything, two died of
the request, and a third would be next."""
_LAST_LOOK_S = 0.5
"""Before a deadline: what is asked of another engine later than this comes too late anyway."""
_BACKOFF_S = 0.25
"""Before the first retry on an engine that has just failed this request; doubles each time."""


class Decoding(Holdings):
    """From READY to the end. ``reroute`` is the subclass's."""

    def reroute(self, record: Record, why: str) -> None:
        """Give the attempt up and take the next route."""
        raise NotImplementedError

    def make_ready(self, record: Record, why: str) -> None:
        """All that is missing is a slot: take one, or wait in line, or (no engine of the cluster
        can use the transfer) take the next route."""
        if record.state is State.READY:
            self._place_of(record).ready.pop(record.request_id, None)
        if record.route is not Route.DIRECT:
            self._release_prefill(record, done=True)
            self._release_link(record)
        engine = record.decode
        assert engine is not None
        if self._takes_assigned(record, engine):
            self.start_decode(record, "")
            return
        usable = self._usable_engines(record)
        engine = self._free_engine(record, usable)
        if engine is not None:
            self._assign(record, engine)
            self.start_decode(record, "")
        elif usable:
            if record.decode not in usable:
                self._assign(record, usable[0])
            if record.state is not State.READY:
                self._move(record, State.READY)
            self._place_of(record).ready[record.request_id] = record
        else:
            self.reroute(record, why or "no decode engine can use the transfer")

    def _usable_engines(self, record: Record) -> list[EngineState]:
        """Engines that can use what this request has. A transfer lies in one cluster."""
        if record.route is Route.DIRECT:
            clusters = self.scene.pd_clusters
        else:
            clusters = [self._place_of(record)]
        usable = [e for c in clusters for e in c.decode_engines if self._usable(record, e)]
        if usable or record.route is not Route.DIRECT:
            return usable
        return [e for c in clusters for e in c.prefill_engines if self._usable(record, e)]

    def _takes_assigned(self, record: Record, engine: EngineState) -> bool:
        packs = self._packs_decode and record.route is not Route.DIRECT
        free = engine.running < engine.max_requests and engine.name not in record.failed
        return free and not packs and self._usable(record, engine)

    def _free_engine(self, record: Record, usable: list[EngineState]) -> EngineState | None:
        """The least full with a free slot; where the policy packs the fullest, but engines that
        prefill beside their batch last. Those that failed this request come after all others."""
        best, best_key = None, (True, True, inf)
        packs = self._packs_decode and record.route is not Route.DIRECT
        for engine in usable:
            if engine.running < engine.max_requests:
                load = engine.running / engine.max_requests
                busy = packs and engine.prefills > 0
                key = (engine.name in record.failed, busy, -load if packs else load)
                if best is None or key < best_key:
                    best, best_key = engine, key
        return best

    def _usable(self, record: Record, engine: EngineState) -> bool:
        return (
            engine.up
            and engine.name not in record.full
            and (engine.takes_handoffs or record.route is Route.DIRECT)
            and (engine.role == "decode" or self._may_stand_in(record, engine))
            and (record.from_token == 0 or record.cached_on(engine) >= record.from_token)
        )

    def _may_stand_in(self, record: Record, engine: EngineState) -> bool:
        """Once assigned to a stand-in it may stay, whatever comes up meanwhile."""
        return record.route is Route.DIRECT and (
            record.decode is engine or self.scene.stands_in(engine)
        )

    def _place_of(self, record: Record) -> ClusterState:
        assert record.decode is not None
        return record.decode.place

    def start_decode(self, record: Record, _why: str) -> None:
        engine = record.decode
        assert engine is not None
        self._move(record, State.DECODING)
        engine.running += 1
        self._tell_to_decode(record, engine)

    def _tell_to_decode(self, record: Record, engine: EngineState) -> None:
        if record.route is Route.DIRECT:
            self._book(record, engine)
        self.out.append(
            StartDecode(
                record.request_id,
                record.attempt,
                engine.name,
                record.transfer_id,
                record.from_token,
                record.to_token,
                record.route,
                record.reason,
            )
        )

    def fill_slots(self, engine: EngineState) -> None:
        """A slot of ``engine`` may be free: start whoever waits for one, in order."""
        ready = engine.place.ready
        while ready and engine.running < engine.max_requests:
            record = next((r for r in ready.values() if self._usable(r, engine)), None)
            if record is None:
                return
            del ready[record.request_id]
            self._assign(record, engine)
            self.trigger(record, Trigger.SLOT_FREED, "")

    def streaming(self, record: Record, _why: str) -> None:
        self._keep_second(record)
        self._move(record, State.STREAMING)
        self._release_prefill(record, done=True)

    def complete(self, record: Record, _why: str) -> None:
        self._keep_second(record)
        self._release_prefill(record, done=True)
        engine = record.decode
        self._release_decode(record)
        self._move(record, State.COMPLETED)
        if engine is not None:
            self.fill_slots(engine)

    def retry_decode(self, record: Record, why: str) -> None:
        """Before the first token: another decode engine, or the same after a pause. Where two are
        at it, the other goes on."""
        if record.hedge is not None:
            self._keep_first(record)
            return
        engine = record.decode
        assert engine is not None
        lost = record.attempt
        if not self._next_attempt(record, why):
            return
        self.out.append(CancelDecode(record.request_id, lost, engine.name))
        self._release_prefill(record, done=False)
        engine.running -= 1
        self._move(record, State.READY)
        self._limit_attempt(record)
        record.failed |= {engine.name}
        record.reason = f"{record.reason}; retried: {why}"
        usable = self._usable_engines(record)
        if not usable and record.full:
            self._fail_full(record, why)
        elif usable and all(e.name in record.failed for e in usable):
            pause = _BACKOFF_S * 2 ** (record.attempt - 2)
            self.timers.add(self.now + pause, TimerKind.BACKOFF, record.request_id, record.attempt)
        else:
            self.make_ready(record, why)
        self.fill_slots(engine)

    def hedge_decode(self, record: Record, why: str) -> None:
        """Ask another engine as well, if one has a place, or look again later."""
        first = record.decode
        others = [e for e in self._usable_engines(record) if e is not first]
        others = [e for e in others if e.name not in record.failed]
        second = self._free_engine(record, others)
        if record.hedge is not None or record.last_attempt >= self._max_attempts:
            return
        if second is None:
            if record.deadline - self.now > _LAST_LOOK_S:
                self._limit_attempt(record)
            return
        self._release_prefill(record, done=False)
        hedging.begin(record, second)
        record.reason = f"{record.reason}; {second.name} asked as well: {why}"
        self._tell_to_decode(record, second)

    def of_first(self, record: Record, trigger: Trigger, why: str) -> None:
        """News of the attempt that was made first, while another was made beside it."""
        if trigger is Trigger.DECODE_FAILED:
            self._keep_second(record)
        elif trigger in (Trigger.FIRST_TOKEN, Trigger.REQUEST_COMPLETED):
            self._keep_first(record)
            self.trigger(record, trigger, why)

    def lose_first(self, record: Record, engine: EngineState) -> None:
        """``engine`` is gone: if it was asked first, the other goes on."""
        if record.hedge is not None and record.hedge.engine is engine:
            self._keep_second(record)

    def _keep_first(self, record: Record) -> None:
        self._release_prefill(record, done=False)
        self._end_other(record, hedging.forget_second(record))

    def _keep_second(self, record: Record) -> None:
        if record.hedge is not None:
            self._end_other(record, hedging.forget_first(record))

    def _end_other(self, record: Record, other: Hedge) -> None:
        record.failed |= {other.engine.name}
        self.out.append(CancelDecode(record.request_id, other.attempt, other.engine.name))
        self.fill_slots(other.engine)

    def cancel(self, record: Record, _why: str) -> None:
        self._end(record, State.CANCELLED)

    def fail_deadline(self, record: Record, why: str) -> None:
        self._fail(record, ErrorKind.DEADLINE, f"{why} while {record.state.name.lower()}")

    def fail_unavailable(self, record: Record, why: str) -> None:
        self._fail(record, ErrorKind.UNAVAILABLE, why)

    def fail_engine(self, record: Record, why: str) -> None:
        self._fail(record, ErrorKind.ENGINE, f"the answer broke off: {why}")

    def _fail_full(self, record: Record, why: str) -> None:
        """Every engine that could answer has said that it is full."""
        known = [seconds for seconds in record.full.values() if seconds is not None]
        self._fail(record, ErrorKind.FULL, why, retry_after_s=min(known, default=None))

    def _fail(
        self,
        record: Record,
        kind: ErrorKind,
        message: str,
        *,
        retry_after_s: float | None = None,
    ) -> None:
        self._end(record, State.FAILED)
        self.out.append(FailRequest(record.request_id, kind, message, retry_after_s))

    def _end(self, record: Record, state: State) -> None:
        self._keep_second(record)
        engine = record.decode
        self._abandon(record)
        self._move(record, state)
        if engine is not None:
            self.fill_slots(engine)

    def _next_attempt(self, record: Record, why: str) -> bool:
        """Count an attempt; False if that was the last and the request has failed."""
        if record.engines_lost >= _MOST_ENGINES_LOST:
            lost = f"{record.engines_lost} engines went away while they had it"
            self._fail(record, ErrorKind.ENGINE, f"gave up after {lost}: {why}")
            return False
        if record.last_attempt < self._max_attempts:
            record.last_attempt += 1
            record.attempt = record.last_attempt
            return True
        self._fail(record, ErrorKind.ENGINE, f"gave up after {self._max_attempts} attempts: {why}")
        return False
