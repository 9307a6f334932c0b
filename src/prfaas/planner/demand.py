"""What is asked of the clusters, and the decode operating point that answers it.

Two ways to take T_prefill over a range of lengths: the paper evaluates it at the mean length,
T(E[L]); the time a cluster really spends is E[T(L)]. T is convex, so the first flatters the
cluster. `Expectations` says which is meant.
"""

from __future__ import annotations

from typing import Literal, cast

import msgspec

from prfaas.core.errors import ConfigError
from prfaas.models.kv_size import KvSize
from prfaas.models.profiles import DecodeProfile
from prfaas.planner import equations as eq
from prfaas.planner.sites import Cluster
from prfaas.workload.lengths import Function, LengthDistribution

Expectations = Literal["mean-length", "exact"]


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """What a walk through the pool has seen beyond what a prompt of L uncached tokens takes by
    itself, as means by L (`prfaas.planner.pool_demand`)."""

    prfaas_s: Function
    """Seconds of a prefill in the PrfaaS cluster beyond T_prefill(L): what is fetched, and what
    others hold."""
    pd_s: Function
    """The same of the PD cluster."""
    sent_bytes: Function
    """Of a hand-off over the line, beyond S_kv(L)."""
    pulled_bytes: Function
    """Of a prefix that crosses the line to who prefills in the PD cluster."""
    prfaas_spread_s: Function | None = None
    """As ``prfaas_s``, of requests of exactly that length, for percentiles; None: as that."""
    pd_spread_s: Function | None = None


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of the clusters, per request."""

    lengths: LengthDistribution
    """Uncached prompt tokens."""
    output_tokens: float
    kv: KvSize
    tokens_per_s: float
    """Decode speed each request is promised; bounds the decode batch."""
    observed: Observed | None = None
    """None: nothing is fetched, and both clusters hold the same."""

    def prefill_s(self, cluster: Cluster) -> Function:
        """Seconds that a prefill in ``cluster`` takes, by L."""
        seconds = cast(Function, cluster.profile.prefill_or_refuse.seconds)
        if self.observed is None:
            return seconds
        of_pd = cluster.kind == "pd"
        return _sum(seconds, self.observed.pd_s if of_pd else self.observed.prfaas_s)

    def sent_bytes(self) -> Function:
        """Bytes of a hand-off over a line, by L."""
        sent = cast(Function, self.kv.bytes)
        return sent if self.observed is None else _sum(sent, self.observed.sent_bytes)


def _sum(first: Function, second: Function) -> Function:
    return lambda tokens: first(tokens) + second(tokens)


class Decode(msgspec.Struct, frozen=True):
    """The decode operating point: the largest batch that keeps the promised speed."""

    batch: int
    step_s: float

    def rate(self, n_d: float, output_tokens: float) -> float:
        """Theta_pd_d, equation (5)."""
        return eq.pd_decode_throughput(n_d, self.batch, self.step_s, output_tokens)


def decode_point(profile: DecodeProfile, tokens_per_s: float) -> Decode:
    """BS_max and T_decode. Raises ConfigError where no profiled batch is fast enough."""
    batch = profile.batch_within(1 / tokens_per_s)
    if batch == 0:
        raise ConfigError(
            f"no profiled decode batch keeps {tokens_per_s:g} tokens/s; the fastest step takes "
            f"{profile.step_seconds(1) * 1e3:.1f} ms: lower slo.tokens_per_s or profile a "
            "smaller batch"
        )
    return Decode(batch, profile.step_seconds(batch))
