"""What a policy sees: requests, engines, lines, clusters, and estimates of what work takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from prfaas.core.deployment import EngineRole

PrefillTimes = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Uncached tokens, for each engine of a list -> seconds that it alone takes to prefill them."""


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
    def fetch_s(self) -> Mapping[str, float]:
        """Engine name -> seconds that it takes to have what it counts of ``cached`` but does not
        hold itself: to load it from its agent, to pull it from another; absent means none."""

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
    def booked_until(self) -> float:
        """When its prefill work of now was to be done, by the costs' estimate."""

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
    """What a policy sees of one cluster."""

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

    def prefill_times(self, engines: Sequence[str]) -> PrefillTimes:
        """`prefill_s` of many engines at once: what it answers now, at any time later."""

    def alike(self, engine: str) -> object:
        """Hashable: engines of which it is equal take equally long for any prompt. None where that
        cannot be said."""

    def knows(self, engine: str) -> bool:
        """Whether that rests on what was measured or seen, and is no guess."""

    def kv_bytes(self, from_token: int, to_token: int) -> float:
        """Bytes of a hand-off of tokens [from_token, to_token)."""

    def load_s(self, engine: str, kv_bytes: float) -> float:
        """Seconds from when a hand-off is there to the first token of a decode engine; 0 where
        nothing is known of that."""

    def answer_s(self, engine: str, batch: float) -> float:
        """Seconds that the usual answer holds its slot on a decode engine with so many sequences in
        its batch; 0 where nothing is known of that."""


class PrefillLearner(Protocol):
    """Whoever learns costs from what is seen."""

    def prefill_given(self, engine: str, now: float) -> None:
        """``engine`` is given a prefill."""

    def prefill_seen(self, engine: str, uncached_tokens: int, seconds: float) -> None:
        """``engine`` was seen to work so long on a prefill, its wait in the queue not counted."""

    def learned(self) -> Mapping[str, tuple[float, ...]]:
        """What is known of each engine, to be kept for a successor."""

    def engines_are(self, cluster_of: Mapping[str, str]) -> None:
        """Engines joined or left: these are all, with their clusters."""
