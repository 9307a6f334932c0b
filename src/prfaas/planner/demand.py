"""What is asked of the clusters, and the decode operating point that answers it.

Two ways to take T_prefill over a range of lengths: the paper evaluates it at the mean length,
T(E[L]); the time a cluster really spends is E[T(L)]. T is convex, so the first flatters the
cluster. `Expectations` says which is meant.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from prfaas.core.errors import ConfigError
from prfaas.models.kv_size import KvSize
from prfaas.models.profiles import DecodeProfile
from prfaas.planner import equations as eq
from prfaas.workload.lengths import LengthDistribution

Expectations = Literal["mean-length", "exact"]


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of the clusters, per request."""

    lengths: LengthDistribution
    """Uncached prompt tokens."""
    output_tokens: float
    kv: KvSize
    tokens_per_s: float
    """Decode speed each request is promised; bounds the decode batch."""


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
