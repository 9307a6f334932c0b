"""What a routing policy sees, and what it answers.

A policy is a pure function of a *view*. The scheduler owns the state behind it, checks the decision
and enforces capacity: a policy can be wrong about speed, never about safety.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Protocol, runtime_checkable

import msgspec

from prfaas.core.deployment import EngineRole


class Route(StrEnum):
    """Where a prompt is prefilled; the value of the header ``x-prfaas-route``."""

    OFFLOAD = "offload"
    """In a PrfaaS cluster; the KV cache crosses a line."""
    PD_P = "pd-p"
    """On a prefill engine of the PD cluster; the KV cache stays inside the cluster."""
    DIRECT = "direct"
    """On the decode engine itself."""


class Decision(msgspec.Struct, frozen=True, gc=False):
    """``prefill_engine`` is None exactly for `Route.DIRECT`. ``reason`` is one line for people."""

    route: Route
    prefill_engine: str | None
    decode_engine: str
    reason: str


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """Not now: no route would have the first token out in time. ``retry_after_s``: when a request
    like this should make it, by the queues of now. ``reason`` is one line for people."""

    retry_after_s: float
    reason: str


class RequestView(Protocol):
    """A request that waits for its route (lengths in tokens, times in seconds)."""

    @property
    def request_id(self) -> str:
        """The driver's name for it."""

    @property
    def total_tokens(self) -> int:
        """Prompt length."""

    @property
    def kv_tokens(self) -> int:
        """Prompt and answer: what of a decode engine's KV memory is kept for it."""

    @property
    def cached(self) -> Mapping[str, int]:
        """Engine name -> prompt tokens whose KV cache it holds; absent means none."""

    @property
    def resumable(self) -> Mapping[str, int]:
        """Engine name -> how many of these it can go on from by itself; absent means all."""

    @property
    def deadline(self) -> float:
        """Time by which the first token is due; may be infinite."""


class EngineView(Protocol):
    """One engine. A prefill engine works off ``queued_s``; a decode engine has ``slots``."""

    @property
    def name(self) -> str:
        """Unique in the deployment."""

    @property
    def cluster(self) -> str:
        """The name of its cluster."""

    @property
    def role(self) -> EngineRole:
        """The work it is given now."""

    @property
    def up(self) -> bool:
        """Whether it answers."""

    @property
    def max_requests(self) -> int:
        """How many requests decode on it at most: its slots."""

    @property
    def prefills(self) -> int:
        """Requests planned on it or running on it as prefill."""

    @property
    def prefill_tokens(self) -> int:
        """Their uncached tokens."""

    @property
    def queued_s(self) -> float:
        """Their prefill time on an engine of their own, by the costs' estimate."""

    @property
    def free_at(self) -> float:
        """When its prefill work of now should be done, by the costs' estimate. Work that should
        have been done by now is expected to take as long again as it is late: the engine may have
        stopped working."""

    @property
    def assigned(self) -> int:
        """Sequences that decode on it or are on their way to it."""

    @property
    def running(self) -> int:
        """Sequences that hold its decode slots."""

    @property
    def kv_tokens(self) -> float:
        """How many tokens of prompts and answers its KV memory holds; may be infinite."""

    @property
    def kv_used(self) -> int:
        """Tokens that those who hold a slot may take of it."""

    @property
    def decoding(self) -> int:
        """Those of them whose prompt is not still to be prefilled here."""

    @property
    def changes_role(self) -> bool:
        """Whether it can do the work of both roles."""

    @property
    def unpaired(self) -> bool:
        """Of one that decodes: whether no prefill engine can hand over to it, so that it computes
        every prompt itself."""

    @property
    def draining(self) -> bool:
        """Whether it is to prefill once its answers are complete; it is given no new ones."""


class LinkView(Protocol):
    """One direction of a line, as its sender last reported it."""

    @property
    def source(self) -> str:
        """The cluster that sends."""

    @property
    def target(self) -> str:
        """The cluster that receives."""

    @property
    def up(self) -> bool:
        """Whether it carries anything."""

    @property
    def rate_bytes_per_s(self) -> float:
        """What the line can carry now: configured, or measured where it is less."""

    @property
    def rtt_s(self) -> float:
        """The round trip time."""

    @property
    def utilisation(self) -> float:
        """Share of the rate in use, 0..1."""

    @property
    def congestion(self) -> float:
        """0 clear .. 1 saturated with queues building."""

    @property
    def outstanding_bytes(self) -> float:
        """KV bytes of offloaded requests that have not wholly arrived, by the costs' estimate."""

    @property
    def transfers(self) -> int:
        """How many requests these are of."""


class ClusterView(Protocol):
    """One cluster."""

    @property
    def name(self) -> str:
        """Unique in the deployment."""

    @property
    def prfaas(self) -> bool:
        """Whether it only prefills; else it is a PD cluster."""

    @property
    def far(self) -> bool:
        """Whether answers come from elsewhere than where the gateway stands."""

    @property
    def engines(self) -> Sequence[EngineView]:
        """All of them."""

    @property
    def prefill_engines(self) -> Sequence[EngineView]:
        """Engines whose role is prefill now, up or not."""

    @property
    def decode_engines(self) -> Sequence[EngineView]:
        """Engines whose role is decode now and that are not draining, up or not."""

    @property
    def waiting_for_decode(self) -> int:
        """Requests with all their KV cache here, for which no decode slot is free."""

    @property
    def completed(self) -> int:
        """Answers completed here since the scheduler began."""


class Costs(Protocol):
    """Estimates that placement and policies read."""

    def prefill_s(self, engine: str, uncached_tokens: int) -> float:
        """Seconds that ``engine`` alone takes to prefill so many uncached tokens."""

    def knows(self, engine: str) -> bool:
        """Whether that rests on what was measured or seen, and is no guess."""

    def kv_bytes(self, from_token: int, to_token: int) -> float:
        """Bytes of a hand-off of tokens [from_token, to_token)."""


class PrefillLearner(Protocol):
    """Whoever learns costs from what is seen."""

    def prefill_seen(self, engine: str, uncached_tokens: int, seconds: float) -> None:
        """``engine`` was seen to work so long on a prefill, its wait in the queue not counted."""

    def learned(self) -> Mapping[str, tuple[float, ...]]:
        """What is known of each engine, to be kept for a successor."""

    def engines_are(self, cluster_of: Mapping[str, str]) -> None:
        """Engines joined or left: these are all, with their clusters."""


class View(Protocol):
    """All that a policy may know."""

    @property
    def clusters(self) -> Sequence[ClusterView]:
        """All of them."""

    @property
    def prfaas_clusters(self) -> Sequence[ClusterView]:
        """Those that only prefill."""

    @property
    def pd_clusters(self) -> Sequence[ClusterView]:
        """Those that decode."""

    @property
    def engines(self) -> Mapping[str, EngineView]:
        """By name."""

    @property
    def costs(self) -> Costs:
        """What work takes."""

    def cluster(self, name: str) -> ClusterView:
        """By name."""

    def link(self, source: str, target: str) -> LinkView | None:
        """The line between two clusters; None where there is none."""

    def prefill_engines(self, cluster: str, decode: str) -> Sequence[EngineView]:
        """The prefill engines of ``cluster``, up or not, that can hand over to the engine
        ``decode``: their KV layouts fit and their machines reach each other."""


class RoleChange(msgspec.Struct, frozen=True, gc=False):
    """From now on give ``engine`` work of ``role``; what it has, it finishes. One that is to
    prefill is drained first: it gets no new answers, and changes when the last is complete."""

    engine: str
    role: EngineRole
    reason: str


class Policy(Protocol):
    """One way to decide. An object: adaptive policies keep what they have observed."""

    name: str
    period_s: float | None
    """How often `adjust` is called; None: never."""
    packs_decode: bool
    """Whether a prefilled request takes a slot of the fullest decode engine that has one, so that
    others stay free; else that of the engine it was assigned to, or of the least full."""

    def route(self, request: RequestView, view: View, *, now: float) -> Decision | Refusal | None:
        """The route of one request, or why there is none for it now; None where no decode engine
        is up (the request then waits)."""

    def adjust(self, view: View, *, now: float) -> Sequence[RoleChange]:
        """Look at queues and lines, move thresholds, and say which engines change their role."""


@runtime_checkable
class MovesThresholds(Protocol):
    """A policy whose thresholds others may set: several schedulers then decide alike."""

    def thresholds(self) -> dict[str, int]:
        """PD cluster -> tokens, of those that have moved."""

    def follow(self, thresholds: Mapping[str, int]) -> None:
        """Use these from now on, until the next `Policy.adjust`."""


class ArrivalPolicy:
    """Base of policies that decide each request as it arrives, and nothing over time."""

    period_s: float | None = None
    packs_decode = False

    def adjust(self, view: View, *, now: float) -> Sequence[RoleChange]:
        """Nothing."""
        return ()
