"""Which route a request takes, and the next one after a failure.

Theory of operation. The policy proposes a route, `_refusal` says whether it can be carried out
now, `_apply` carries it out. After a failure the attempt is given up with all it holds and the next
route is taken: offload, then the PD cluster's prefill engines, then the decode engine alone. Where
no decode engine is up, a prefill engine of a PD cluster stands in for it and answers alone.
"""

from __future__ import annotations

from math import inf

from prfaas.core.deployment import SchedulerConfig
from prfaas.policies import placement
from prfaas.policies.api import Decision, Policy, Refusal, Route
from prfaas.policies.views import Costs, EngineView
from prfaas.scheduler.commands import CancelDecode, ErrorKind
from prfaas.scheduler.decoding import Decoding
from prfaas.scheduler.ending import Ending
from prfaas.scheduler.fleet import FleetState
from prfaas.scheduler.lifecycle import State, Trigger
from prfaas.scheduler.prefilling import Prefilling
from prfaas.scheduler.requests import Requests
from prfaas.scheduler.reservations import Reservations
from prfaas.scheduler.state import EngineState, Record
from prfaas.scheduler.timers import TimerKind

_MOST_ENGINES_LOST = 2
"""So many engines may go away while they have a request: one may have died of anything, two died of
the request, and a third would be next."""
_LAST_LOOK_S = 0.5
"""Before a deadline: what is asked of another engine later than this comes too late anyway."""
_BACKOFF_S = 0.25
"""Before the first retry on an engine that has just failed this request; doubles each time."""


class Routing:
    """Composes the other parts: whatever may end in another route is an action of this one."""

    def __init__(
        self,
        requests: Requests,
        reservations: Reservations,
        fleet: FleetState,
        policy: Policy,
        config: SchedulerConfig,
        costs: Costs,
        *,
        prefilling: Prefilling,
        decoding: Decoding,
        ending: Ending,
    ) -> None:
        self._requests = requests
        self._reservations = reservations
        self._fleet = fleet
        self._policy = policy
        self._costs = costs
        self._prefilling = prefilling
        self._decoding = decoding
        self._ending = ending
        self._attempt_share = config.attempt_share
        self._max_attempts = config.max_attempts
        self._engine_wait_s = config.engine_wait_s

    def unpark(self, engine: EngineState) -> None:
        """An engine that can answer came up: route what has waited for one that serves it."""
        for record in list(self._requests.parked.values()):
            if record.served_by(engine):
                self._requests.trigger(record, Trigger.ENGINE_RETURNED, "")

    def route(self, record: Record, _why: str) -> None:
        """Ask the policy, which knows of no route where no decode engine is up."""
        view = self._fleet.seen_by(record)
        decision = self._policy.route(record, view, now=self._requests.now)
        if decision is None:
            self._stand_in(record, "")
        elif isinstance(decision, Refusal):
            self._ending.refuse(record, decision)
        elif (refusal := self._refusal(record, decision)) is not None:
            self._apply_next(record, f"{decision.reason}; {refusal}")
        else:
            self._apply(record, decision)

    def reroute(self, record: Record, why: str) -> None:
        """Give the attempt up and take the next route: offload, pd-p, direct."""
        if record.transfer_id is not None:
            record.failed |= {record.transfer_from}
        self._reservations.abandon(record)
        if self._next_attempt(record, why):
            self._apply_next(record, why)

    def make_ready(self, record: Record, why: str) -> None:
        """All that is missing is a slot: take one, or wait in line, or (no engine of the cluster
        can use the transfer) take the next route."""
        if not self._decoding.take_slot(record):
            self.reroute(record, why or "no decode engine can use the transfer")

    def prefilled_last(self, record: Record, why: str) -> None:
        """The last bytes were there before the prefill engine had answered."""
        self._prefilling.learn(record)
        self.make_ready(record, why)

    def stalled(self, record: Record, why: str) -> None:
        """The bytes rest: what comes next does not wait for the same line."""
        self._prefilling.stalled(record)
        self.reroute(record, why)

    def watch_transfer(self, record: Record, _why: str) -> None:
        """More of it has arrived; give it up if it is too slow."""
        why = self._prefilling.too_slow(record)
        if why is not None:
            self.reroute(record, why)

    def retry_decode(self, record: Record, why: str) -> None:
        """Before the first token: another decode engine, or the same after a pause. Where two are
        at it, the other goes on."""
        if record.hedge is not None:
            self._decoding.keep_first(record)
            return
        engine = record.decode
        assert engine is not None
        lost = record.attempt
        if not self._next_attempt(record, why):
            return
        requests = self._requests
        requests.out.append(CancelDecode(record.request_id, lost, engine.name))
        self._reservations.release_prefill(record, done=False)
        engine.give_slot(record)
        requests.move(record, State.READY)
        self._limit_attempt(record)
        record.failed |= {engine.name}
        record.reason = f"{record.reason}; retried: {why}"
        usable = self._decoding.usable_engines(record)
        failed = all(e.name in record.failed for e in usable)
        if failed and (self._other(record) is not None or (record.full and not usable)):
            # Where it was handed over all have failed it, or are full; elsewhere one may not.
            self._reservations.abandon(record)
            self._apply_next(record, why)
        elif usable and failed:
            at = requests.now + _BACKOFF_S * 2 ** (record.attempt - 2)
            requests.timers.add(at, TimerKind.BACKOFF, record.request_id, record.attempt)
        else:
            self.make_ready(record, why)
        self._decoding.fill_slots(engine)

    def hedge_decode(self, record: Record, why: str) -> None:
        """Ask another engine as well, if one has a place, or look again later."""
        if record.hedge is not None or record.last_attempt >= self._max_attempts:
            return
        asked = self._decoding.ask_as_well(record, why)
        if not asked and record.deadline - self._requests.now > _LAST_LOOK_S:
            self._limit_attempt(record)

    def prefill_late(self, record: Record, why: str) -> None:
        """Its share of the time is over: take the next route, unless the engine is expected to be
        done in time. What begins anew elsewhere begins with nothing."""
        requests = self._requests
        if requests.now < record.due_at < record.deadline:
            requests.timers.add(record.due_at, TimerKind.ATTEMPT, record.request_id, record.attempt)
        else:
            self.reroute(record, why)

    def _other(self, record: Record) -> EngineView | None:
        """A decode engine that has not failed it, nor is full."""
        clusters = self._fleet.seen_by(record).pd_clusters
        return placement.decode_engine(record, clusters, avoid=record.failed.union(record.full))

    def _apply_next(self, record: Record, why: str) -> None:
        view = self._fleet.seen_by(record)
        decode = self._other(record)
        if decode is None:
            decode = placement.decode_engine(record, view.pd_clusters, avoid=record.full)
        if decode is None:
            if record.full:
                self._ending.fail_full(record, why)
            else:
                self._stand_in(record, why)
            return
        engine = None
        if record.route is not Route.DIRECT or record.attempt == 1:
            engine = placement.prefill_engine(
                record,
                view.prefill_engines(decode.cluster, decode.name),
                self._costs,
                now=self._requests.now,
                avoid=record.failed,
            )
        if engine is None:
            self._apply(record, Decision(Route.DIRECT, None, decode.name, why))
        else:
            self._apply(record, Decision(Route.PD_P, engine.name, decode.name, why))

    def _refusal(self, record: Record, decision: Decision) -> str | None:
        """Why a policy's decision cannot be carried out; None if it can."""
        decode = self._fleet.engines[decision.decode_engine]
        if not decode.up:
            return f"{decode.name} is down"
        if not record.served_by(decode):
            return f"{decode.name} does not serve it"
        if decision.prefill_engine is None:
            return None
        engine = self._fleet.engines[decision.prefill_engine]
        if not engine.up:
            return f"{engine.name} is down"
        if not record.served_by(engine):
            return f"{engine.name} does not serve it"
        if engine.name in record.failed:
            return f"{engine.name} failed this request before"
        if not self._fleet.pairing.hands_over(engine, decode):
            return f"{engine.name} cannot hand over to {decode.name}"
        network = self._fleet.network(engine, decode)
        if network is not None and not network.up:
            return f"no link up from {engine.cluster} to {decode.cluster}"
        if network is None and engine.place is not decode.place:
            return f"no link from {engine.cluster} to {decode.cluster}"
        return None

    def _stand_in(self, record: Record, why: str) -> None:
        """No decode engine is up: have a PD cluster's prefill engine answer alone, or park."""
        engine = placement.stand_in(record, self._fleet.seen_by(record).pd_clusters)
        if engine is None:
            self._park(record)
            return
        which = "decode engine" if record.serves is None else "decode engine that serves it"
        reason = f"no {which} is up, {engine.name} stands in"
        reason = f"{why}; {reason}" if why else reason
        self._apply(record, Decision(Route.DIRECT, None, engine.name, reason))

    def _park(self, record: Record) -> None:
        requests = self._requests
        if record.state is not State.PARKED:
            requests.move(record, State.PARKED)
            record.failed = frozenset()
            wait = requests.now + self._engine_wait_s
            requests.timers.add(wait, TimerKind.ENGINE_WAIT, record.request_id, record.attempt)

    def _apply(self, record: Record, decision: Decision) -> None:
        """Carry out a decision that `_refusal` has nothing against."""
        decode = self._fleet.engines[decision.decode_engine]
        if decision.prefill_engine is not None:
            decode = self._receiver(record, decode, self._fleet.engines[decision.prefill_engine])
        record.route, record.reason = decision.route, decision.reason
        record.transfer_id = None
        record.from_token = record.to_token = 0
        self._reservations.assign(record, decode)
        self._limit_attempt(record)
        if decision.prefill_engine is not None:
            engine = self._fleet.engines[decision.prefill_engine]
            pairing = self._fleet.pairing
            align = pairing.alignment_tokens(engine, decode)
            from_token = record.cached_on(decode) // align * align
            to_token = self._prefilling.end(record, engine, decode, from_token)
            if not decode.takes_handoffs:
                record.reason += f"; {decode.name} takes no hand-offs"
            elif not pairing.hands_over(engine, decode):
                record.reason += f"; {engine.name} cannot hand over to {decode.name}"
            elif from_token < to_token and self._reservations.memories.too_large(
                decode, self._costs.kv_bytes(from_token, to_token)
            ):
                record.reason += f"; its KV cache is larger than the memory of {decode.machine}"
            elif from_token < to_token:
                self._prefilling.plan(record, engine, decode, from_token, to_token)
                return
            else:
                record.reason += "; nothing to hand over"
            record.route = Route.DIRECT
        self.make_ready(record, "")

    def _receiver(self, record: Record, decode: EngineState, prefill: EngineState) -> EngineState:
        """``decode``; where it takes no hand-offs from ``prefill``, its least full neighbour that
        does."""
        if self._receives(record, decode, prefill):
            return decode
        others = [e for e in decode.place.decode_engines if self._receives(record, e, prefill)]
        return min(others, key=lambda e: e.assigned / e.max_requests, default=decode)

    def _receives(self, record: Record, engine: EngineState, prefill: EngineState) -> bool:
        return (
            engine.up
            and engine.takes_handoffs
            and engine.name not in record.full
            and record.served_by(engine)
            and self._fleet.pairing.hands_over(prefill, engine)
        )

    def _limit_attempt(self, record: Record) -> None:
        if record.deadline < inf:
            now = self._requests.now
            limit = now + (record.deadline - now) * self._attempt_share
            self._requests.timers.add(limit, TimerKind.ATTEMPT, record.request_id, record.attempt)

    def _next_attempt(self, record: Record, why: str) -> bool:
        """Count an attempt; False if that was the last and the request has failed."""
        if record.engines_lost >= _MOST_ENGINES_LOST:
            lost = f"{record.engines_lost} engines went away while they had it"
            self._ending.fail(record, ErrorKind.ENGINE, f"gave up after {lost}: {why}")
            return False
        if record.last_attempt < self._max_attempts:
            record.last_attempt += 1
            record.attempt = record.last_attempt
            return True
        message = f"gave up after {self._max_attempts} attempts: {why}"
        self._ending.fail(record, ErrorKind.ENGINE, message)
        return False
