"""The actions of the transition table: how one request gets its engines, and gets new ones.

Theory of operation. An *attempt* is one route tried: a prefill place, a transfer, a decode slot.
Every action leaves the request in a state that `lifecycle.TABLE` allows (`_move` checks), and the
books balanced: what an attempt has taken (a place on the prefill engine, bytes on the line, an
assignment to the decode engine, a slot) is given back exactly once, by `_release_prefill`,
`_release_link` and `_release_decode`, and giving back starts whoever waits for it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from math import inf

from prfaas.core.deployment import SchedulerConfig
from prfaas.core.errors import InvariantError
from prfaas.policies import placement
from prfaas.policies.api import Costs, Decision, Policy, Route
from prfaas.scheduler.commands import (
    AnyCommand,
    CancelDecode,
    CancelPrefill,
    CancelTransfer,
    ErrorKind,
    FailRequest,
    StartDecode,
    StartPrefill,
)
from prfaas.scheduler.lifecycle import TABLE, TERMINAL, State, Trigger, successors
from prfaas.scheduler.state import ClusterState, EngineState, Record, Scene
from prfaas.scheduler.timers import Timer, TimerKind, Timers
from prfaas.scheduler.topology import Topology

Action = Callable[[Record, str], None]

_BACKOFF_S = 0.25
"""Before the first retry on an engine that has just failed this request; doubles each time."""


class Attempts:
    """Live requests and what they hold. ``now`` and ``out`` are set by `Scheduler.handle`."""

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
        self._align = topology.alignment_tokens
        self._attempt_share = config.attempt_share
        self._max_attempts = config.max_attempts
        self._stall_s = config.transfer_stall_s
        self._engine_wait_s = config.engine_wait_s
        self._allowed = [frozenset(to) for _, to in sorted(successors().items())]
        self._actions: dict[tuple[State, Trigger], Action] = {
            key: getattr(self, step.action) for key, step in TABLE.items()
        }

    def _is_stale(self, timer: Timer) -> bool:
        """Whether a request's timer can no longer move it (lines and the policy have their own)."""
        if timer.kind is TimerKind.LINK or timer.kind is TimerKind.ADJUST:
            return False
        record = self.records.get(timer.key)  # type: ignore[arg-type]
        if record is None:
            return True
        if timer.kind is TimerKind.DEADLINE:
            return record.state is State.STREAMING
        stalling = record.state is State.SENDING
        return timer.attempt != record.attempt or (timer.kind is TimerKind.STALL and not stalling)

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

    def unpark(self) -> None:
        """A decode engine came up: route what has waited for one."""
        for record in list(self._parked.values()):
            self.trigger(record, Trigger.ENGINE_RETURNED, "")

    def _move(self, record: Record, state: State) -> None:
        if state not in self._allowed[record.state]:
            raise InvariantError(f"{record.request_id}: {record.state.name} -> {state.name}")
        if record.state is State.PARKED:
            del self._parked[record.request_id]
        record.state = state
        if state in TERMINAL:
            del self.records[record.request_id]

    # -- routing --------------------------------------------------------------------------------

    def route(self, record: Record, _why: str) -> None:
        """Ask the policy; park where no decode engine is up."""
        decision = self._policy.route(record, self.scene, now=self.now)
        if decision is None:
            self._park(record)
        elif (refusal := self._refusal(record, decision)) is not None:
            self._apply_next(record, f"{decision.reason}; {refusal}")
        else:
            self._apply(record, decision)

    def reroute(self, record: Record, why: str) -> None:
        """Give the attempt up and take the next route: offload, pd-p, direct."""
        if record.transfer_id is not None:
            record.failed |= {record.transfer_from}
        self._abandon(record)
        if self._next_attempt(record, why):
            self._apply_next(record, why)

    def _apply_next(self, record: Record, why: str) -> None:
        decode = placement.decode_engine(record, self.scene.pd_clusters)
        if decode is None:
            self._park(record)
            return
        engine = None
        if record.route is not Route.DIRECT or record.attempt == 1:
            engine = placement.prefill_engine(
                record,
                self.scene.cluster(decode.cluster).prefill_engines,
                self._costs,
                now=self.now,
                avoid=record.failed,
            )
        if engine is None:
            self._apply(record, Decision(Route.DIRECT, None, decode.name, why))
        else:
            self._apply(record, Decision(Route.PD_P, engine.name, decode.name, why))

    def _refusal(self, record: Record, decision: Decision) -> str | None:
        """Why a policy's decision cannot be carried out; None if it can."""
        decode = self.scene.engines[decision.decode_engine]
        if not decode.up:
            return f"{decode.name} is down"
        if decision.prefill_engine is None:
            return None
        engine = self.scene.engines[decision.prefill_engine]
        if not engine.up:
            return f"{engine.name} is down"
        if engine.name in record.failed:
            return f"{engine.name} failed this request before"
        if engine.place is not decode.place:
            link = self.scene.link(engine.cluster, decode.cluster)
            if link is None or not link.up:
                return f"no line up from {engine.cluster} to {decode.cluster}"
        return None

    def _park(self, record: Record) -> None:
        if record.state is not State.PARKED:
            self._move(record, State.PARKED)
            self._parked[record.request_id] = record
            record.failed = frozenset()
            wait = self.now + self._engine_wait_s
            self.timers.add(wait, TimerKind.ENGINE_WAIT, record.request_id, record.attempt)

    def _apply(self, record: Record, decision: Decision) -> None:
        """Carry out a decision that `_refusal` has nothing against."""
        decode = self.scene.engines[decision.decode_engine]
        record.route, record.reason = decision.route, decision.reason
        record.transfer_id = None
        record.from_token = record.to_token = 0
        self._assign(record, decode)
        self._limit_attempt(record)
        if decision.prefill_engine is not None:
            from_token = record.cached_on(decode) // self._align * self._align
            if from_token < record.boundary:
                self._plan_prefill(record, self.scene.engines[decision.prefill_engine], from_token)
                return
            record.route = Route.DIRECT
            record.reason += "; nothing to hand over"
        self.make_ready(record, "")

    def _limit_attempt(self, record: Record) -> None:
        if record.deadline < inf:
            limit = self.now + (record.deadline - self.now) * self._attempt_share
            self.timers.add(limit, TimerKind.ATTEMPT, record.request_id, record.attempt)

    def _plan_prefill(self, record: Record, engine: EngineState, from_token: int) -> None:
        record.from_token, record.to_token = from_token, record.boundary
        self._book(record, engine)
        engine.prefill_records[record.request_id] = record
        if engine.place is not record.decode.place:  # type: ignore[union-attr]
            link = self.scene.links[engine.cluster, record.decode.cluster]  # type: ignore[union-attr]
            record.link = link
            record.link_bytes = self._costs.kv_bytes(from_token, record.boundary)
            link.outstanding_bytes += record.link_bytes
            link.records[record.request_id] = record
        if len(engine.prefill_records) - len(engine.waiting) > engine.max_prefills:
            engine.waiting[record.request_id] = record
            self._move(record, State.WAITING)
        else:
            self.start_prefill(record, "")

    def _book(self, record: Record, engine: EngineState) -> None:
        record.uncached = max(1, record.total_tokens - record.cached_on(engine))
        record.prefill_s = self._costs.prefill_s(engine.name, record.uncached)
        record.prefill = engine
        engine.book(record.uncached, record.prefill_s, self.now)

    # -- prefill and transfer -------------------------------------------------------------------

    def start_prefill(self, record: Record, _why: str) -> None:
        engine, decode = record.prefill, record.decode
        assert engine is not None
        assert decode is not None
        self._move(record, State.PREFILLING)
        record.transfer_id = f"{record.request_id}-{record.attempt}"
        record.transfer_attempt, record.transfer_from = record.attempt, engine.name
        self.out.append(
            StartPrefill(
                record.request_id,
                record.attempt,
                engine.name,
                decode.name,
                record.transfer_id,
                record.from_token,
                record.to_token,
                record.route,
                record.reason,
            )
        )

    def prefilled(self, record: Record, _why: str) -> None:
        self._move(record, State.SENDING)
        self._release_prefill(record, done=True)
        record.stall_at = self.now + self._stall_s
        self.timers.add(record.stall_at, TimerKind.STALL, record.request_id, record.attempt)

    def watch_transfer(self, record: Record, _why: str) -> None:
        record.stall_at = self.now + self._stall_s

    def received(self, record: Record, _why: str) -> None:
        self._move(record, State.RECEIVED)
        self._release_link(record)

    # -- decode ---------------------------------------------------------------------------------

    def make_ready(self, record: Record, why: str) -> None:
        """All that is missing is a slot: take one, or wait in line, or (no engine of the cluster
        can use the transfer) take the next route."""
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
        """Decode engines that can use what this request has. A transfer lies in one cluster."""
        if record.route is Route.DIRECT:
            clusters = self.scene.pd_clusters
        else:
            clusters = [self._place_of(record)]
        return [e for c in clusters for e in c.decode_engines if self._usable(record, e)]

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
            and engine.role == "decode"
            and (record.from_token == 0 or record.cached_on(engine) >= record.from_token)
        )

    def _place_of(self, record: Record) -> ClusterState:
        assert record.decode is not None
        return record.decode.place

    def start_decode(self, record: Record, _why: str) -> None:
        engine = record.decode
        assert engine is not None
        self._move(record, State.DECODING)
        engine.running += 1
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
        self._move(record, State.STREAMING)
        self._release_prefill(record, done=True)

    def complete(self, record: Record, _why: str) -> None:
        self._release_prefill(record, done=True)
        engine = record.decode
        self._release_decode(record)
        self._move(record, State.COMPLETED)
        if engine is not None:
            self.fill_slots(engine)

    def retry_decode(self, record: Record, why: str) -> None:
        """Before the first token: another decode engine, or the same after a pause."""
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
        if usable and all(e.name in record.failed for e in usable):
            pause = _BACKOFF_S * 2 ** (record.attempt - 2)
            self.timers.add(self.now + pause, TimerKind.BACKOFF, record.request_id, record.attempt)
        else:
            self.make_ready(record, why)
        self.fill_slots(engine)

    # -- ends -----------------------------------------------------------------------------------

    def cancel(self, record: Record, _why: str) -> None:
        self._end(record, State.CANCELLED)

    def fail_deadline(self, record: Record, why: str) -> None:
        self._fail(record, ErrorKind.DEADLINE, f"{why} while {record.state.name.lower()}")

    def fail_unavailable(self, record: Record, why: str) -> None:
        self._fail(record, ErrorKind.UNAVAILABLE, why)

    def fail_engine(self, record: Record, why: str) -> None:
        self._fail(record, ErrorKind.ENGINE, f"the answer broke off: {why}")

    def _fail(self, record: Record, kind: ErrorKind, message: str) -> None:
        self._end(record, State.FAILED)
        self.out.append(FailRequest(record.request_id, kind, message))

    def _end(self, record: Record, state: State) -> None:
        engine = record.decode
        self._abandon(record)
        self._move(record, state)
        if engine is not None:
            self.fill_slots(engine)

    def _next_attempt(self, record: Record, why: str) -> bool:
        """Count an attempt; False if that was the last and the request has failed."""
        if record.attempt < self._max_attempts:
            record.attempt += 1
            return True
        self._fail(record, ErrorKind.ENGINE, f"gave up after {self._max_attempts} attempts: {why}")
        return False

    # -- what an attempt holds ------------------------------------------------------------------

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
