"""What the scheduler knows of each request, engine, cluster and link. Mutable."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import NamedTuple

from prfaas.core.deployment import EngineRole
from prfaas.policies.api import Route
from prfaas.scheduler.clock import Clock
from prfaas.scheduler.events import RequestArrived
from prfaas.scheduler.lifecycle import State
from prfaas.scheduler.line import Line
from prfaas.scheduler.share import Share
from prfaas.scheduler.topology import ClusterSpec, EngineSpec
from prfaas.scheduler.turns import Turns


class EngineState:
    """An `EngineView`, and which requests are on the engine. ``changed``: it adds itself to it
    whenever something of it changes."""

    __slots__ = (
        "_changed", "_clock", "_own_until", "all_prefills", "all_requests", "answers", "assigned",
        "busy_since", "changes_role", "cluster", "configured_role", "cordon", "decode_records",
        "draining", "kv_each", "kv_tokens", "kv_told", "kv_used", "machine", "max_prefills",
        "max_requests", "may_change_role", "most_prefills", "most_running", "name", "no_givers",
        "place", "prefill_records", "prefill_tokens", "prefills", "queued_s", "role", "running",
        "share", "suspected", "takes_handoffs", "told_drained", "up", "up_since", "waiting",
        "warm",
    )  # fmt: skip
    _changed: set[EngineState]

    def __init__(
        self, spec: EngineSpec, place: ClusterState, clock: Clock, changed: set[EngineState]
    ) -> None:
        object.__setattr__(self, "_changed", changed)
        self.name = spec.name
        self.cluster, self.machine = spec.cluster, spec.machine
        self.place = place
        self.role: EngineRole = spec.role
        self.configured_role = spec.role
        self.may_change_role = self.changes_role = spec.changes_role
        self.draining = False
        self.most_running = self.most_prefills = 0
        """What the bounds allowed since it was last below them: they may be set lower meanwhile."""
        self.max_requests = self.max_prefills = 0
        self.share = Share()
        self.running = 0
        self.prefill_records: dict[str, Record] = {}
        """Planned (waiting) and running prefills."""
        self.waiting: Turns[Record] = Turns()
        """Those of them that wait for a place."""
        self.kv_told: float | None = None
        self.kv_each = 0
        """Tokens of KV memory that a request takes beside its own."""
        self.set_capacity(spec)
        self.kv_used = 0
        """Prompt and output tokens, at most, of those that hold a slot."""
        self.up = self.answers = spec.up
        """``up``: whether it may be given new work: it answers and is not cordoned."""
        self.cordon: str | None = None
        """Why it takes no more, where an operator said so."""
        self.told_drained = False
        """Whether it was reported, since it was cordoned, that it has nothing left."""
        self.takes_handoffs = True
        """Whether its agent can send and receive for it; else it only answers alone."""
        self.no_givers = False
        """Whether no prefill engine can hand over to it (`Pairing`)."""
        self.suspected = False
        """It was up and may be failing: not up, but what it has goes on."""
        self.up_since = -inf
        self.decode_records: dict[str, Record] = {}
        """Requests that decode here or are on their way."""
        self.prefills = self.assigned = self.prefill_tokens = 0
        self.queued_s = 0.0
        self._own_until = -inf
        self._clock = clock
        self.busy_since = inf
        """When it began the prefill that is to end next; infinite where that is not known."""
        self.warm = spec.up
        """Whether it has prefilled since it came up: at the first one it still makes kernels."""

    def __setattr__(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)
        self._changed.add(self)

    def changed(self) -> None:
        """To be called after another module wrote a field: compiled, that passes the above by."""
        self._changed.add(self)

    @property
    def unpaired(self) -> bool:
        """See `EngineView`."""
        return self.no_givers or not self.takes_handoffs

    @property
    def decoding(self) -> int:
        """See `EngineView`."""
        return self.running - (self.prefills - len(self.prefill_records))

    @property
    def booked_until(self) -> float:
        """See `EngineView`. What other gateways have there is done before one's own."""
        return self.share.behind_others(self._own_until)

    @property
    def free_at(self) -> float:
        """See `EngineView`."""
        late_s = self._clock.now - self.booked_until
        return self._clock.now + late_s if self.prefills and late_s > 0 else self.booked_until

    @property
    def finishes(self) -> bool:
        """Whether it answers but takes no more."""
        return self.answers and self.cordon is not None

    @property
    def idle(self) -> bool:
        """Whether nothing is on it or on its way to it."""
        return not self.assigned and not self.prefills

    def set_usable(self, *, answers: bool) -> None:
        """It answers or not; ``cordon`` says whether it should be given work."""
        self.answers = answers
        self.up = answers and self.cordon is None
        self.told_drained = self.told_drained and self.cordon is not None

    def came_up(self, now: float) -> None:
        """It is a new process: it holds nothing and does nothing."""
        self.up_since = self._own_until = now
        self.warm = False

    def set_capacity(self, spec: EngineSpec) -> None:
        """How much it is given at a time, from now on: what is on it beyond that may end."""
        self.all_requests, prefills = spec.max_requests, spec.max_prefills
        self.all_prefills = spec.max_requests if prefills is None else prefills
        self.kv_tokens = inf if spec.kv_tokens is None else spec.kv_tokens
        if self.kv_told is not None:
            self.kv_tokens = min(self.kv_tokens, self.kv_told)
        self.bound()

    def bound(self) -> None:
        """Of all its places those may be taken that are this scheduler's share."""
        self.max_requests = int(min(self.all_requests, self.share.slots))
        self.max_prefills = int(min(self.all_prefills, self.share.prefills))
        self.most_running = max(self.max_requests, self.running)
        active = len(self.prefill_records) - len(self.waiting)
        self.most_prefills = max(self.max_prefills, active)

    def set_kv_memory(self, tokens: float, tokens_each: int) -> None:
        """What the engine itself has said of it."""
        self.kv_used += self.running * (tokens_each - self.kv_each)
        self.kv_told = self.kv_tokens = tokens
        self.kv_each = tokens_each

    def has_slot(self, record: Record) -> bool:
        """Whether its slots are free and the KV memory holds this request beside the others. Alone
        it is let in whatever its size."""
        if not self.running:
            return True
        if self.running + record.sequences > self.max_requests:
            return False
        return self.kv_used + self.share.others_kv + self.kv_of(record) <= self.kv_tokens

    def kv_of(self, record: Record) -> int:
        """Tokens of its KV memory that a request takes at most."""
        return record.kv_tokens + record.sequences * self.kv_each

    def take_slot(self, record: Record) -> None:
        """So many of the slots as it has sequences are this request's."""
        self.running += record.sequences
        self.kv_used += self.kv_of(record)

    def give_slot(self, record: Record) -> None:
        """They are free again."""
        self.running -= record.sequences
        self.kv_used -= self.kv_of(record)

    def book(self, tokens: int, seconds: float, now: float) -> None:
        """More prefill work: ``tokens`` uncached tokens, estimated at ``seconds``."""
        if not self.prefills:
            self.busy_since = now
        self.prefills += 1
        self.share.begun += 1
        self.prefill_tokens += tokens
        self.queued_s += seconds
        # Work that is overdue does not become less so by more work.
        begins = self._own_until if self._own_until > now or self.prefills > 1 else now
        self._own_until = begins + seconds

    def unbook(self, tokens: int, seconds: float, now: float, *, done: bool) -> None:
        """Less of it; ``done``: because it was worked off, so that the rest starts now."""
        self.prefills -= 1
        self.prefill_tokens -= tokens
        # Rounding must not pile up over millions of requests.
        self.queued_s = self.queued_s - seconds if self.prefills else 0.0
        self._own_until = now + self.queued_s if done else self._own_until - seconds
        self.busy_since = now if done else inf


class ClusterState:
    """A `ClusterView`, and the requests that wait here for a decode slot."""

    def __init__(self, spec: ClusterSpec, *, far: bool = False) -> None:
        self.name = spec.name
        self.prfaas = spec.kind == "prfaas"
        self.far = far
        self.engines: list[EngineState] = []
        self.prefill_engines: list[EngineState] = []
        self.decode_engines: list[EngineState] = []
        self.ready: Turns[Record] = Turns()
        self.completed = 0

    @property
    def waiting_for_decode(self) -> int:
        """See `ClusterView`."""
        return len(self.ready)

    def sort_roles(self) -> None:
        """Engines anew by role, after one has changed."""
        self.prefill_engines = [e for e in self.engines if e.role == "prefill" and e.takes_handoffs]
        self.decode_engines = [e for e in self.engines if e.role == "decode" and not e.draining]


class LinkState(Line["Record"]):
    """A `Line` whose transfers are those of the scheduler's records."""


class Hedge(NamedTuple):
    """The attempt that was made first, and the engine whose slot it still holds."""

    attempt: int
    engine: EngineState


class Record:
    """One live request. Fields from ``attempt`` on belong to the attempt under way."""

    __slots__ = (
        "arrived_at", "asked_at", "attempt", "began_at", "began_beside", "cached", "deadline",
        "decode", "due_at", "engines_lost", "failed", "fetch_s", "from_token", "full",
        "handed_bytes", "hedge", "last_attempt", "link", "link_bytes", "memory", "output_tokens",
        "pace", "prefill", "prefill_s", "priority", "reason", "request_id", "resumable", "route",
        "sequences", "serves", "share_arrived", "stall_at", "state", "tenant", "tenant_class",
        "to_token", "total_tokens", "transfer_attempt", "transfer_from", "transfer_id", "uncached",
        "weight",
    )  # fmt: skip

    def __init__(self, event: RequestArrived, now: float) -> None:
        self.request_id = event.request_id
        self.total_tokens, self.sequences = event.total_tokens, event.sequences
        self.tenant, self.tenant_class = event.tenant, event.tenant_class
        self.weight, self.priority = event.weight, event.priority
        self.output_tokens = event.max_output_tokens
        """As many as room is kept for, for each sequence."""
        self.cached: Mapping[str, int] = event.cached
        self.resumable: Mapping[str, int] = event.resumable
        self.fetch_s: Mapping[str, float] = event.fetch_s
        self.serves = None if event.serves is None else frozenset(event.serves)
        """The only engines that serve it; None: all do."""
        self.deadline = inf if event.deadline is None else event.deadline
        self.arrived_at = now
        self.failed: frozenset[str] = frozenset()
        """Engines that failed this request."""
        self.full: dict[str, float | None] = {}
        """Engines that had no place for it, with when they may have one."""
        self.engines_lost = 0
        """How many engines went away while they had it."""
        self.state = State.ARRIVED
        self.attempt = self.last_attempt = 1
        self.hedge: Hedge | None = None
        """The attempt before this one, where it goes on beside it."""
        self.route = Route.DIRECT
        self.reason = ""
        self.prefill: EngineState | None = None
        """Where prefill work is booked: the prefill engine, or the decode engine if direct."""
        self.decode: EngineState | None = None
        self.uncached = 0
        self.prefill_s = 0.0
        self.due_at = -inf
        """By when the prefill should be done, by the costs' estimate."""
        self.from_token = self.to_token = 0
        self.transfer_id: str | None = None
        self.transfer_attempt = 0
        self.transfer_from = ""
        self.link: LinkState | None = None
        self.link_bytes = 0.0
        self.memory: str | None = None
        """The machine on which its hand-off has memory booked."""
        self.stall_at = inf
        self.share_arrived: float | None = None
        self.asked_at = self.began_at = now
        self.began_beside = 0
        """When a decode engine was asked, and its first token was there, among so many."""
        self.handed_bytes = 0.0
        """Of its hand-off."""
        self.pace: tuple[float, float] | None = None
        """When, soon after prefill, which share of the transfer's bytes had arrived."""

    @property
    def kv_tokens(self) -> int:
        """See `RequestView`."""
        return self.total_tokens + self.sequences * self.output_tokens

    def cached_on(self, engine: EngineState) -> int:
        """Prefix tokens on ``engine``; none if it restarted since this request arrived."""
        if not self.cached or self.arrived_at < engine.up_since:
            return 0
        return self.cached.get(engine.name, 0)

    def served_by(self, engine: EngineState) -> bool:
        """Whether ``engine`` may be asked at all."""
        return self.serves is None or engine.name in self.serves

    def resumable_on(self, engine: EngineState) -> int:
        """Of these, how many it can go on from by itself."""
        cached = self.cached_on(engine)
        return min(cached, self.resumable.get(engine.name, cached)) if self.resumable else cached
