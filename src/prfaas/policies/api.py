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
from prfaas.policies.alike import AlikeFleet
from prfaas.policies.columns import Bools, Columns
from prfaas.policies.views import ClusterView, Costs, EngineView, LinkView, RequestView


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

    @property
    def columns(self) -> Columns:
        """Engines and lines side by side, as they are now."""

    @property
    def alike(self) -> AlikeFleet | None:
        """The same by queue, where every prefill engine can hand over to every decode engine in
        reach and costs say which engines are alike; else None."""

    def hands_over(self, request: RequestView, decode: str) -> bool:
        """Whether there is anything to hand over to the engine ``decode`` if it does not prefill
        the prompt itself: it is longer than a block, and ``decode`` lacks more than its end."""

    def givers(self, decode: str) -> Bools | None:
        """By engine number (`Columns`), which of them can hand over to the engine ``decode``; None
        where all can."""

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
