"""The state machine between what happens and what is to be done. The gateway drives it in real
time, the simulator in simulated time; it knows of neither.

Theory of operation. ``handle(event, now=...)`` returns the commands that follow, in order. Every
live request has one `Record` in one `State`; an event is looked up in the transition table
(`lifecycle.TABLE`) and runs one action, a method of the part that it concerns: `Routing`,
`Prefilling`, `Decoding`, `Ending`. The policy proposes, the scheduler
disposes: it checks that engines and the line are up, turns an offload with nothing to hand over
into a direct answer, holds requests back while their engine is full, and after a failure takes the
next route (offload, then the PD cluster's prefill engines, then the decode engine alone, then a
prefill engine in its stead) with a new attempt and transfer, until the deadline. Time limits live
in one heap of timers, of which the driver sees only the earliest (`SetTimer`).

Guarantees, property-tested: each request ends exactly once (completed, failed or cancelled); no
engine is given more than its ``max_requests``; nothing is retried after the first token; the same
events at the same times give the same commands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import Any

from prfaas.core.deployment import SchedulerConfig
from prfaas.core.errors import CallerError, InvariantError
from prfaas.core.layout import KvLayout
from prfaas.policies.api import Policy, View
from prfaas.policies.views import Costs, PrefillLearner
from prfaas.scheduler.answer_lengths import AnswerLengths
from prfaas.scheduler.assembly import assemble
from prfaas.scheduler.commands import AnyCommand, SetTimer
from prfaas.scheduler.connectivity import Connectivity
from prfaas.scheduler.events import (
    AnyEvent,
    DecisionsTold,
    DecodeFailed,
    EngineCordoned,
    EngineDown,
    EngineShared,
    EngineSuspected,
    EngineUncordoned,
    EngineUp,
    Fault,
    FirstToken,
    KvMemoryKnown,
    LayoutKnown,
    LeadBegun,
    LinkStateChanged,
    MachinesCut,
    MachinesJoined,
    MemoryReported,
    PairingChanged,
    PrefillCompleted,
    PrefillFailed,
    RequestArrived,
    RequestCancelled,
    RequestCompleted,
    RequestEvent,
    TimerFired,
    TopologyChanged,
    TransferCompleted,
    TransferFailed,
    TransferProgressed,
)
from prfaas.scheduler.fleet import FleetState
from prfaas.scheduler.leading import Leading
from prfaas.scheduler.lifecycle import TERMINAL, State, Trigger
from prfaas.scheduler.load_times import DecodeTimes, LearnedDecodes, LearnedTimes
from prfaas.scheduler.membership import Membership
from prfaas.scheduler.queues import Queues
from prfaas.scheduler.requests import Handler, Requests
from prfaas.scheduler.reshaping import Reshaping
from prfaas.scheduler.roles import Roles
from prfaas.scheduler.sharing import Sharing
from prfaas.scheduler.state import Record
from prfaas.scheduler.timers import TimerKind
from prfaas.scheduler.topology import Topology

_TRIGGERS: dict[type, Trigger] = {
    PrefillCompleted: Trigger.PREFILL_COMPLETED,
    PrefillFailed: Trigger.PREFILL_FAILED,
    TransferCompleted: Trigger.TRANSFER_COMPLETED,
    TransferFailed: Trigger.TRANSFER_FAILED,
    FirstToken: Trigger.FIRST_TOKEN,
    RequestCompleted: Trigger.REQUEST_COMPLETED,
    DecodeFailed: Trigger.DECODE_FAILED,
}
_FAILURES = (PrefillFailed, TransferFailed, DecodeFailed)
_REQUEST_TIMERS = {
    TimerKind.ATTEMPT: (Trigger.ATTEMPT_TIMED_OUT, "the attempt took too long"),
    TimerKind.BACKOFF: (Trigger.BACKOFF_ENDED, "retry"),
    TimerKind.ENGINE_WAIT: (Trigger.GAVE_UP_WAITING, "no engine came back in time"),
}


class Scheduler:
    """See the module. Raises nothing but InvariantError and, for an unknown engine or line or a
    doubled request id, CallerError. Not thread-safe.

    Args:
        costs: what policy and bookkeeping read.
        learner: told how long prefills took; None where costs are known.
        decodes: told how long engines took to begin on hand-offs, and for answers; None: nobody.
        on_layout: see `Pairing`.
        on_engines: told of each `TopologyChanged` which engines there are, in which clusters.
    """

    def __init__(
        self,
        topology: Topology,
        policy: Policy,
        config: SchedulerConfig,
        *,
        costs: Costs,
        learner: PrefillLearner | None,
        decodes: LearnedDecodes | None = None,
        on_layout: Callable[[KvLayout], None] | None = None,
        on_engines: Callable[[Mapping[str, str]], None] | None = None,
    ) -> None:
        self._policy = policy
        self._learner = learner
        self._decode_times = None if decodes is None else DecodeTimes(decodes)
        self._requests = requests = Requests()
        self._fleet = fleet = FleetState(topology, costs, on_layout=on_layout)
        parts = assemble(requests, fleet, policy, config, costs=costs, learner=learner)
        self._decoding = parts.decoding
        self._memories = parts.reservations.memories
        self._roles = Roles(requests, fleet, parts.decoding, mode=config.roles)
        self._membership = membership = Membership(
            requests, fleet, routing=parts.routing, decoding=parts.decoding, roles=self._roles
        )
        self._reshaping = reshaping = Reshaping(
            requests, fleet, membership=membership, decoding=parts.decoding, on_engines=on_engines
        )
        self.sharing = sharing = Sharing(
            requests, fleet, membership, parts.reservations, parts.decoding
        )
        self.leading = leading = Leading(
            requests, fleet, policy, membership=membership, roles=self._roles
        )
        self._answers = AnswerLengths()
        self._records = requests.records
        self._timers = requests.timers
        self._connectivity = connectivity = Connectivity(requests, fleet, config.link_grace_s)
        self._now = -inf
        self._steps: dict[type, list[Handler | None]] = {
            kind: [requests.handler(state, trigger) for state in State]
            for kind, trigger in _TRIGGERS.items()
        }
        self._actions: dict[type, Callable[[Any], None]] = {
            **dict.fromkeys(_TRIGGERS, self._step),
            RequestArrived: self._request_arrived,
            RequestCancelled: self._request_cancelled,
            TransferProgressed: self._transfer_progressed,
            LayoutKnown: fleet.pairing.layout_known,
            PairingChanged: fleet.pairing.changed,
            MachinesCut: connectivity.cut,
            MachinesJoined: connectivity.joined,
            EngineUp: membership.up,
            EngineSuspected: membership.suspected,
            EngineDown: membership.down,
            EngineCordoned: membership.cordoned,
            EngineUncordoned: membership.uncordoned,
            TopologyChanged: reshaping.changed,
            MemoryReported: parts.reservations.memory_reported,
            KvMemoryKnown: membership.kv_memory,
            EngineShared: sharing.shared,
            DecisionsTold: leading.told,
            LeadBegun: leading.begun,
            LinkStateChanged: connectivity.link_changed,
            TimerFired: self._timer_fired,
        }

    @property
    def view(self) -> View:
        """What policies see: for dashboards and reports, to read only."""
        return self._fleet

    @property
    def learned(self) -> LearnedTimes:
        """What it has learned; empty where costs are known."""
        return LearnedTimes(
            {} if self._learner is None else self._learner.learned(),
            *(({}, {}) if self._decode_times is None else self._decode_times.learned),
        )

    @property
    def live_requests(self) -> int:
        """How many requests have not ended."""
        return len(self._records)

    def state(self, request_id: str) -> State | None:
        """The state of a live request; None if it is over or unknown."""
        record = self._records.get(request_id)
        return None if record is None else record.state

    @property
    def waiting_tokens(self) -> int:
        """Prompt tokens of the requests that wait for a place on an engine."""
        return self._requests.queues.tokens

    @property
    def queues(self) -> Queues:
        """What waits; to read only."""
        return self._requests.queues

    def requests_on(self, engine: str) -> int:
        """How many requests are on an engine or on their way to it. Raises CallerError."""
        state = self._membership.engine(engine)
        return len(state.prefill_records.keys() | state.decode_records.keys())

    def handle(self, event: AnyEvent, *, now: float) -> list[AnyCommand]:
        """Take one event at time ``now`` (seconds, never less than before); return what to do."""
        if now < self._now:
            raise InvariantError(f"time ran backwards: {now} after {self._now}")
        if self._now == -inf and self._policy.period_s is not None:
            self._timers.add(now + self._policy.period_s, TimerKind.ADJUST, "")
        self._now = now
        requests = self._requests
        requests.now = self._fleet.clock.now = now
        out: list[AnyCommand] = []
        requests.out = out
        self._actions[type(event)](event)
        if self._fleet.draining:
            self._roles.settle()
        if self._fleet.cordoned:
            self._membership.settle()
            self._reshaping.settle()
        alarm = self._timers.alarm()
        if alarm is not None:
            out.append(SetTimer(alarm))
        return out

    def _step(self, event: RequestEvent) -> None:
        """News of an attempt: run the row for the request's state, if there is one."""
        record = self._records.get(event.request_id)
        if record is None:
            return
        if isinstance(event, RequestCompleted) and event.output_tokens is not None:
            self._answers.ended(event.output_tokens, record.tenant, sequences=record.sequences)
        if record.attempt != event.attempt:
            self._of_another_attempt(record, event)
        elif (step := self._steps[type(event)][record.state]) is not None:
            if isinstance(event, (PrefillFailed, DecodeFailed)):
                _note_fault(record, event)
            elif self._decode_times is not None:
                self._decode_times.heard(record, event, self._now)
            step(record, event.reason if isinstance(event, _FAILURES) else "")

    def _of_another_attempt(self, record: Record, event: RequestEvent) -> None:
        """Late news, unless it is of an attempt that goes on beside the last one."""
        if record.hedge is not None and record.hedge.attempt == event.attempt:
            if isinstance(event, DecodeFailed):
                record.engines_lost += event.fault is Fault.LOST
            self._decoding.of_first(record, _TRIGGERS[type(event)])

    def check_integrity(self) -> None:
        """Raise InvariantError where the bookkeeping contradicts itself."""
        self._fleet.check_integrity()
        self._memories.check_integrity(self._records.keys())
        for record in self._records.values():
            if record.state in TERMINAL or record.state is State.ARRIVED:
                raise InvariantError(f"request {record.request_id} rests in {record.state.name}")

    def _request_arrived(self, event: RequestArrived) -> None:
        if event.request_id in self._records:
            raise CallerError(f"request id {event.request_id!r} is in use")
        record = Record(event, self._now)
        record.output_tokens = self._answers.expected(event.max_output_tokens, event.tenant)
        self._records[event.request_id] = record
        self._timers.add(record.deadline, TimerKind.DEADLINE, event.request_id)
        self._requests.trigger(record, Trigger.ROUTED, "")

    def _request_cancelled(self, event: RequestCancelled) -> None:
        record = self._records.get(event.request_id)
        if record is not None:
            self._requests.trigger(record, Trigger.REQUEST_CANCELLED, "the client went away")

    def _transfer_progressed(self, event: TransferProgressed) -> None:
        record = self._records.get(event.request_id)
        if record is not None and record.attempt == event.attempt:
            self._connectivity.arrived(record, event.share)
            self._requests.trigger(record, Trigger.TRANSFER_PROGRESSED, "")

    def _timer_fired(self, _event: TimerFired) -> None:
        self._timers.fired()
        while (timer := self._timers.pop_due(self._now)) is not None:
            if isinstance(timer.key, tuple):
                self._connectivity.timer(timer.kind, timer.key)
            elif timer.kind is TimerKind.ADJUST:
                self._adjust()
            elif (record := self._records.get(timer.key)) is not None:
                self._request_timer(record, timer.kind, timer.attempt)

    def _request_timer(self, record: Record, kind: TimerKind, attempt: int) -> None:
        requests = self._requests
        if kind is TimerKind.DEADLINE:
            requests.trigger(record, Trigger.DEADLINE_PASSED, "deadline passed")
        elif attempt != record.attempt:
            return
        elif kind is not TimerKind.STALL:
            trigger, why = _REQUEST_TIMERS[kind]
            requests.trigger(record, trigger, why)
        elif record.stall_at > self._now:
            self._timers.add(record.stall_at, TimerKind.STALL, record.request_id, attempt)
        else:
            requests.trigger(record, Trigger.STALLED, "the transfer stalled")

    def _adjust(self) -> None:
        period = self._policy.period_s
        assert period is not None
        self._timers.add(self._now + period, TimerKind.ADJUST, "")
        self.leading.adjust()


def _note_fault(record: Record, event: PrefillFailed | DecodeFailed) -> None:
    record.engines_lost += event.fault is Fault.LOST
    if isinstance(event, DecodeFailed) and event.fault is Fault.FULL and record.decode is not None:
        record.full[record.decode.name] = event.retry_after_s
