"""The threshold that a deployment would need now: the paper's search (section 3.4.3) on what is.

Theory of operation. Of prompts as they come, those with more than t uncached tokens are prefilled
in PrfaaS clusters, the others in the PD cluster. With the share p of them above t,

    Lambda(t) = min(Theta_prfaas / p, Theta_pd_p / (1 - p))

is the rate that both sides can carry (equations 3, 4 and 6): Theta_prfaas is bounded by the engines
and by the line, cluster by cluster, Theta_pd_p by the prefill engines of the PD cluster, or by its
decode engines where it has no others. The search is over the prompts seen lately themselves, so
their lengths are their own distribution; costs, lines and roles are those of now. Policies that
compare times need no threshold; this says where a fixed one would have to stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from math import exp, inf
from statistics import NormalDist

import msgspec

from prfaas.policies.api import View
from prfaas.policies.placement import reachable
from prfaas.policies.views import ClusterView, Costs, EngineView

_PAPERS_MU, _PAPERS_SIGMA = 9.9, 1.0
_PRIOR = 64
"""So many prompts of the paper's lengths (lognormal) stand for those not seen yet."""


class Optimum(msgspec.Struct, frozen=True):
    """``threshold_tokens``: prompts with more uncached tokens would be offloaded; ``bound``: what
    limits the rate there."""

    threshold_tokens: int
    prompts_per_s: float
    offloaded_share: float
    bound: str


def usual_lengths() -> list[int]:
    """Uncached tokens of prompts as long as no others were seen: those of the paper's workload."""
    normal = NormalDist(_PAPERS_MU, _PAPERS_SIGMA)
    return [round(exp(normal.inv_cdf((i + 0.5) / _PRIOR))) for i in range(_PRIOR)]


def search_threshold(view: View, home: ClusterView, lengths: Sequence[int]) -> Optimum | None:
    """The best threshold for prompts that are decoded in ``home``; None where nothing can be
    offloaded to it, or nothing is up. ``lengths``: uncached tokens of prompts, at least one."""
    lengths = sorted(lengths)
    local = _local_rates(view, home, lengths)
    remote = _remote_rates(view, home, lengths)
    if local is None or remote is None:
        return None
    count = len(lengths)
    best: Optimum | None = None
    for below in range(count + 1):
        if 0 < below < count and lengths[below - 1] == lengths[below]:
            continue
        share = 1 - below / count
        far, why = remote[below]
        carried = min(far / share if share else inf, local[below] / (1 - share) if below else inf)
        if best is None or carried > best.prompts_per_s:
            bound = why if share and far / share == carried else "PD prefill"
            tokens = lengths[below - 1] if below else 0
            best = Optimum(tokens, carried, share, bound)
    return best


def _local_rates(view: View, home: ClusterView, lengths: Sequence[int]) -> list[float] | None:
    """Theta_pd_p for the shortest 0, 1, ... of the prompts."""
    engines = _up(home.prefill_engines) or _up(home.decode_engines)
    if not engines:
        return None
    times = _times(view.costs, engines[0], lengths)
    sums = [0.0, *accumulate(times)]
    return [inf if not n else len(engines) * n / sums[n] for n in range(len(lengths) + 1)]


def _remote_rates(
    view: View, home: ClusterView, lengths: Sequence[int]
) -> list[tuple[float, str]] | None:
    """Theta_prfaas for all but the shortest 0, 1, ... of the prompts, and what bounds it."""
    count = len(lengths)
    rates, line_bound = [0.0] * (count + 1), [0.0] * (count + 1)
    found = False
    for cluster, link in reachable(view, home.name):
        engines = _up(cluster.prefill_engines)
        if not engines:
            continue
        found = True
        work = _from_the_end(_times(view.costs, engines[0], lengths))
        bytes_ = _from_the_end([view.costs.kv_bytes(0, length) for length in lengths])
        for n in range(count):
            by_engines = len(engines) * (count - n) / work[n]
            by_line = link.rate_bytes_per_s * (count - n) / bytes_[n] if bytes_[n] else inf
            rates[n] += min(by_engines, by_line)
            line_bound[n] += by_line < by_engines
    if not found:
        return None
    rates[count] = inf
    return [
        (rate, "line" if by_line else "PrfaaS prefill")
        for rate, by_line in zip(rates, line_bound, strict=True)
    ]


def _times(costs: Costs, engine: EngineView, lengths: Sequence[int]) -> list[float]:
    """Engines of one cluster are alike: one stands for all."""
    return [max(1e-9, costs.prefill_s(engine.name, max(1, length))) for length in lengths]


def _from_the_end(values: Sequence[float]) -> list[float]:
    """Sums of all values from the n-th on."""
    return list(accumulate(reversed(values)))[::-1]


def _up(engines: Sequence[EngineView]) -> list[EngineView]:
    return [engine for engine in engines if engine.up]
