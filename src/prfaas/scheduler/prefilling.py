"""From a planned prefill to the last byte of its hand-off."""

from __future__ import annotations

from math import inf

from prfaas.policies.views import PrefillLearner
from prfaas.scheduler.commands import StartPrefill
from prfaas.scheduler.fleet import FleetState
from prfaas.scheduler.handoff_end import handoff_end
from prfaas.scheduler.lifecycle import State
from prfaas.scheduler.requests import Requests
from prfaas.scheduler.reservations import Reservations, fetch_s
from prfaas.scheduler.state import EngineState, Record
from prfaas.scheduler.timers import TimerKind

_PATIENCE = 2.0
"""In units of ``transfer_stall``: what a transfer may be expected to need still, once it has had
one of them."""


class Prefilling:
    """``stall_s``: how long a transfer may rest after its prefill. ``learner``: told how long
    prefills took; None: nobody is."""

    def __init__(
        self,
        requests: Requests,
        reservations: Reservations,
        fleet: FleetState,
        *,
        learner: PrefillLearner | None,
        stall_s: float,
    ) -> None:
        self._requests = requests
        self._reservations = reservations
        self._fleet = fleet
        self._learner = learner
        self._stall_s = stall_s

    def plan(
        self,
        record: Record,
        engine: EngineState,
        decode: EngineState,
        from_token: int,
        to_token: int,
    ) -> None:
        """Prefill on ``engine`` and hand tokens [from_token, to_token) over to ``decode``, now or
        when ``engine`` has a place."""
        record.from_token, record.to_token = from_token, to_token
        may_start = self._reservations.take_prefill_place(record, engine)
        network = self._fleet.network(engine, decode)
        if network is not None:
            self._reservations.book_link(record, network)
        if may_start:
            self.start_prefill(record, "")
        else:
            self._requests.move(record, State.WAITING)

    def end(self, record: Record, engine: EngineState, decode: EngineState, from_token: int) -> int:
        """Where a hand-off between these engines ends; not behind ``from_token``: there is none."""
        pairing = self._fleet.pairing
        boundary = pairing.boundary(record.total_tokens, engine, decode)
        if not pairing.may_be_exact(engine, decode):
            return boundary
        network = self._fleet.network(engine, decode)
        return handoff_end(
            record.total_tokens,
            from_token,
            boundary=boundary,
            costs=self._fleet.costs,
            decode_engine=decode.name,
            bytes_per_s=inf if network is None else network.rate_bytes_per_s,
        )

    def start_prefill(self, record: Record, _why: str) -> None:
        """The prefill engine has a place for it."""
        engine, decode = record.prefill, record.decode
        assert engine is not None
        assert decode is not None
        self._requests.move(record, State.PREFILLING)
        self._reservations.book_memory(record)
        record.transfer_id = f"{record.request_id}-{record.attempt}"
        record.transfer_attempt, record.transfer_from = record.attempt, engine.name
        self._requests.out.append(
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
                exact=record.to_token % self._fleet.pairing.alignment_tokens(engine, decode) != 0,
            )
        )

    def prefilled(self, record: Record, _why: str) -> None:
        """The prefill engine is done; bytes are still on their way, and may not rest for long."""
        self.learn(record)
        self._requests.move(record, State.SENDING)
        self._reservations.release_prefill(record, done=True)
        record.stall_at = self._requests.now + self._stall_s
        record.pace = None
        self._requests.timers.add(
            record.stall_at, TimerKind.STALL, record.request_id, record.attempt
        )

    def received(self, record: Record, _why: str) -> None:
        """Every byte is there before the prefill engine has answered."""
        self._requests.move(record, State.RECEIVED)
        self._reservations.release_link(record, arrived=True)

    def stalled(self, record: Record) -> None:
        """The bytes have rested for ``transfer_stall``."""
        if record.link is not None:
            record.link.blame(record.stall_at - self._stall_s)

    def too_slow(self, record: Record) -> str | None:
        """After news of a transfer that does not rest: why it is hopeless all the same, by its pace
        since its prefill ended; None if it is not."""
        now = self._requests.now
        record.stall_at = now + self._stall_s
        if record.share_arrived is None:
            return None
        if record.pace is None:
            record.pace = now, record.share_arrived
        since, arrived_then = record.pace
        elapsed_s = now - since
        gained, missing = record.share_arrived - arrived_then, 1.0 - record.share_arrived
        if elapsed_s >= self._stall_s and missing * elapsed_s > _PATIENCE * self._stall_s * gained:
            return f"the transfer is too slow: {missing:.0%} missing after {elapsed_s:.0f} s"
        return None

    def learn(self, record: Record) -> None:
        """The prefill engine has answered: tell how long it was at this prompt. What was fetched
        is taken off; where that was most of it, nothing is said of computing."""
        engine = record.prefill
        assert engine is not None
        fetched_s = fetch_s(record, engine)
        seconds = self._requests.now - engine.busy_since - fetched_s
        alone = engine.share.contested_at < engine.busy_since
        if self._learner is not None and engine.warm and alone and seconds >= fetched_s:
            self._learner.prefill_seen(engine.name, record.uncached, seconds)
        engine.warm = True
        engine.changed()
