"""The actions up to the last byte: routes, prefill, transfer.

Theory of operation. The policy proposes a route, `_refusal` says whether it can be carried out
now, `_apply` carries it out. After a failure the attempt is given up with all it holds and the next
route is taken: offload, then the PD cluster's prefill engines, then the decode engine alone. Where
no decode engine is up, a prefill engine of a PD cluster stands in for it and answers alone.
"""

from __future__ import annotations

from prfaas.policies import placement
from prfaas.policies.api import Decision, Route
from prfaas.scheduler.commands import StartPrefill
from prfaas.scheduler.decoding import Decoding
from prfaas.scheduler.lifecycle import State, Trigger
from prfaas.scheduler.state import EngineState, Record
from prfaas.scheduler.timers import TimerKind

_LATE = 0.5
"""In units of its expected time: so much longer a prefill may take before it counts as late."""
_PATIENCE = 2.0
"""In units of ``transfer_stall``: what a transfer may be expected to need still, once it has had
one of them."""


class Attempts(Decoding):
    """All actions of the transition table."""

    def unpark(self) -> None:
        """An engine that can answer came up: route what has waited for one."""
        for record in list(self._parked.values()):
            self.trigger(record, Trigger.ENGINE_RETURNED, "")

    def route(self, record: Record, _why: str) -> None:
        """Ask the policy, which knows of no route where no decode engine is up."""
        decision = self._policy.route(record, self.scene, now=self.now)
        if decision is None:
            self._stand_in(record, "")
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
            self._stand_in(record, why)
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

    def _stand_in(self, record: Record, why: str) -> None:
        """No decode engine is up: have a PD cluster's prefill engine answer alone, or park."""
        engine = placement.stand_in(record, self.scene.pd_clusters)
        if engine is None:
            self._park(record)
            return
        reason = f"no decode engine is up, {engine.name} stands in"
        reason = f"{why}; {reason}" if why else reason
        self._apply(record, Decision(Route.DIRECT, None, engine.name, reason))

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
        if decision.prefill_engine is not None:
            decode = self._receiver(decode)
        record.route, record.reason = decision.route, decision.reason
        record.transfer_id = None
        record.from_token = record.to_token = 0
        self._assign(record, decode)
        self._limit_attempt(record)
        if decision.prefill_engine is not None:
            from_token = record.cached_on(decode) // self._align * self._align
            if not decode.takes_handoffs:
                record.reason += f"; {decode.name} takes no hand-offs"
            elif from_token < record.boundary:
                engine = self.scene.engines[decision.prefill_engine]
                self._plan_prefill(record, engine, decode, from_token)
                return
            else:
                record.reason += "; nothing to hand over"
            record.route = Route.DIRECT
        self.make_ready(record, "")

    def _receiver(self, decode: EngineState) -> EngineState:
        """``decode``; where it takes no hand-offs, its least full neighbour that does."""
        if decode.takes_handoffs:
            return decode
        others = [e for e in decode.place.decode_engines if e.up and e.takes_handoffs]
        return min(others, key=lambda e: e.assigned / e.max_requests, default=decode)

    def _plan_prefill(
        self, record: Record, engine: EngineState, decode: EngineState, from_token: int
    ) -> None:
        record.from_token, record.to_token = from_token, record.boundary
        self._book(record, engine)
        record.due_at = engine.free_at + _LATE * record.prefill_s
        engine.prefill_records[record.request_id] = record
        if engine.place is not decode.place:
            link = self.scene.links[engine.cluster, decode.cluster]
            record.link = link
            record.link_bytes = self._costs.kv_bytes(from_token, record.boundary)
            link.outstanding_bytes += record.link_bytes
            link.records[record.request_id] = record
        if len(engine.prefill_records) - len(engine.waiting) > engine.max_prefills:
            engine.waiting[record.request_id] = record
            self._move(record, State.WAITING)
        else:
            self.start_prefill(record, "")

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

    def prefill_late(self, record: Record, why: str) -> None:
        """Its share of the time is over: take the next route, unless the engine is expected to be
        done in time. What begins anew elsewhere begins with nothing."""
        if self.now < record.due_at < record.deadline:
            self.timers.add(record.due_at, TimerKind.ATTEMPT, record.request_id, record.attempt)
        else:
            self.reroute(record, why)

    def prefilled(self, record: Record, _why: str) -> None:
        self._learn(record)
        self._move(record, State.SENDING)
        self._release_prefill(record, done=True)
        record.stall_at = self.now + self._stall_s
        record.pace = None
        self.timers.add(record.stall_at, TimerKind.STALL, record.request_id, record.attempt)

    def watch_transfer(self, record: Record, _why: str) -> None:
        """It does not rest; but at its pace since prefill ended it may be hopelessly slow."""
        record.stall_at = self.now + self._stall_s
        if record.share_arrived is None:
            return
        if record.pace is None:
            record.pace = self.now, record.share_arrived
        since, arrived_then = record.pace
        elapsed_s = self.now - since
        gained, missing = record.share_arrived - arrived_then, 1.0 - record.share_arrived
        if elapsed_s >= self._stall_s and missing * elapsed_s > _PATIENCE * self._stall_s * gained:
            self.reroute(
                record, f"the transfer is too slow: {missing:.0%} missing after {elapsed_s:.0f} s"
            )

    def prefilled_last(self, record: Record, why: str) -> None:
        """The last bytes were there before the prefill engine had answered."""
        self._learn(record)
        self.make_ready(record, why)

    def _learn(self, record: Record) -> None:
        engine = record.prefill
        assert engine is not None
        seconds = self.now - engine.busy_since
        if engine.warm and seconds >= 0:
            self._costs.prefill_seen(engine.name, record.uncached, seconds)
        engine.warm = True

    def received(self, record: Record, _why: str) -> None:
        self._move(record, State.RECEIVED)
        self._release_link(record)
