"""The fluid optimum: the most any routing could serve, over any number of clusters and lines.

Theory of operation. Cut the lengths into buckets. A *route* prefills in one cluster and decodes in
another (a PD cluster, the same or across a line). Let x[b, r] be the requests per second of bucket
b on route r. Each resource (a cluster's prefill time, its decode slots, a line's bytes) is used
linearly, so the largest request rate is a linear program. With *elastic* roles a PD cluster's
nodes share prefill and decode in any proportion: one resource instead of two.

The program routes whole buckets by their mean cost, so its value is reached by a real routing (a
bucket may be divided at random). Weak duality turns its prices u into a certificate for all
routings, however fine: no routing serves more than sum(u cap) / E[min_r u a_r(L)]. Both numbers
are reported; between them there is nothing left to win by a cleverer cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, linprog
from scipy.sparse import csr_array, hstack, vstack

from prfaas.core.errors import ConfigError
from prfaas.models.interpolation import FloatArray
from prfaas.planner.demand import Demand
from prfaas.planner.routes import Resource, Route, Splits, resources_of, routes_of
from prfaas.planner.sites import Cluster, Line
from prfaas.workload.lengths import Function, LengthDistribution

BUCKETS = 256
_PANELS_PER_BUCKET = 8


class RouteFlow(msgspec.Struct, frozen=True, kw_only=True):
    """What the optimum sends over one route."""

    prefill: str
    decode: str
    share: float
    """Of all requests."""
    mean_tokens: float
    shortest_tokens: float
    longest_tokens: float


class FluidOptimum(msgspec.Struct, frozen=True, kw_only=True):
    """The optimum, the routing that reaches it, and the certificate that none does better."""

    lambda_max: float
    upper_bound: float
    elastic: bool
    flows: list[RouteFlow]
    utilisation: dict[str, float]
    """Used share of every resource; 1 where it binds."""
    prefill_nodes: dict[str, float]
    """Nodes of each PD cluster that prefill keeps busy (fractions with elastic roles)."""
    offloaded_share: float
    egress_bytes_per_s: float
    threshold_tokens: float | None
    """The one threshold this routing amounts to; None where it is not one."""


def fluid_optimum(
    demand: Demand,
    clusters: Sequence[Cluster],
    lines: Sequence[Line],
    *,
    splits: Splits | None = None,
    buckets: int = BUCKETS,
) -> FluidOptimum:
    """The largest request rate and a routing that reaches it with the fewest bytes on lines.

    Args:
        splits: (N_p, N_d) of every PD cluster; None: elastic roles.
        buckets: into how many the lengths are cut, about.

    The elastic optimum is the bound for every policy on the same hardware, in the simulator too.
    Raises ConfigError for clusters that cannot serve the demand.
    """
    routes = routes_of(clusters, lines, splits)
    resources = resources_of(demand, clusters, lines, routes, splits)
    buckets_of = _Buckets(demand.lengths, buckets)
    # use[k, b, r]: units of resource k that a request of bucket b takes on route r.
    use = np.zeros((len(resources), buckets_of.share.size, len(routes)))
    for k, resource in enumerate(resources):
        for number, function in resource.use.items():
            use[k, :, number] = buckets_of.mean(function)
    rates, prices = _solve(resources, use, buckets_of.share)
    total = float(rates.sum())
    used = np.einsum("kbr,br->k", use, rates)
    offloads = np.array([route.prefill.kind == "prfaas" for route in routes])
    on_lines = [k for k, resource in enumerate(resources) if resource.is_line]
    return FluidOptimum(
        lambda_max=total,
        upper_bound=_upper_bound(buckets_of, resources, prices, len(routes)),
        elastic=splits is None,
        flows=_flows(routes, rates, buckets_of),
        utilisation={r.name: float(used[k] / r.capacity) for k, r in enumerate(resources)},
        prefill_nodes=_prefill_nodes(routes, rates, buckets_of),
        offloaded_share=float(rates[:, offloads].sum()) / total,
        egress_bytes_per_s=float(used[on_lines].sum()),
        threshold_tokens=_one_threshold(rates, offloads, buckets_of.edges),
    )


class _Buckets:
    """The lengths cut into buckets: half the cuts at equal shares of requests, half at equal steps
    of length. A bucket that holds no request is joined to the one after it."""

    def __init__(self, lengths: LengthDistribution, count: int) -> None:
        quantiles = lengths.quantile(np.linspace(0, 1, count // 2 + 1))
        edges = np.union1d(quantiles, np.linspace(lengths.low, lengths.high, count // 2 + 1))
        edges[0] = np.nextafter(lengths.low, -np.inf)
        share = lengths.bucket_expectations(np.ones_like, edges)
        some = share > 1e-9
        self.lengths = lengths
        self.edges: FloatArray = np.concatenate((edges[:1], edges[1:][some]))
        # Costs have kinks where a profile's table has a point: narrow panels keep them exact.
        inside = np.linspace(self.edges[:-1], self.edges[1:], _PANELS_PER_BUCKET, False, axis=1)
        self._panels = np.append(inside, self.edges[-1])
        self.share: FloatArray = self._expectations(np.ones_like)

    def mean(self, function: Function) -> FloatArray:
        """E[f(L) | bucket] for every bucket."""
        return self._expectations(function) / self.share

    def expectation(self, function: Function) -> float:
        """E[f(L)], by the same panels as `mean`, so that the two never contradict each other."""
        return float(self._expectations(function).sum())

    def _expectations(self, function: Function) -> FloatArray:
        panels = self.lengths.bucket_expectations(function, self._panels)
        return np.asarray(panels.reshape(-1, _PANELS_PER_BUCKET).sum(axis=1))


def _solve(
    resources: Sequence[Resource], use: FloatArray, share: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Requests per second by bucket and route, and the price of each resource's full capacity.

    Among the routings that reach the optimum, the one with the fewest bytes on lines.
    """
    kinds, buckets, routes = use.shape
    size = buckets * routes
    # Scaled so that every capacity is 1: bytes and seconds differ by ten orders of magnitude.
    capacity = np.array([resource.capacity for resource in resources])
    usage = csr_array(use.reshape(kinds, size) / capacity[:, None])
    usage = hstack([usage, csr_array((kinds, 1))], format="csr")
    # Every bucket's rates add up to its share of lambda, the last variable.
    bucket_of = np.repeat(np.arange(buckets), routes)
    balance = csr_array((np.ones(size), (bucket_of, np.arange(size))), shape=(buckets, size))
    balance = hstack([balance, csr_array(-share[:, None])], format="csr")
    limits, zeros = np.ones(kinds), np.zeros(buckets)
    most = np.zeros(size + 1)
    most[-1] = -1.0
    solved = _checked(linprog(most, A_ub=usage, b_ub=limits, A_eq=balance, b_eq=zeros))
    prices = -solved.ineqlin.marginals
    on_lines = [k for k, resource in enumerate(resources) if resource.is_line]
    if on_lines:
        sent = use[on_lines].sum(axis=0).ravel() / capacity[on_lines].max()
        as_many = csr_array(([-1.0], ([0], [size])), shape=(1, size + 1))
        solved = _checked(
            linprog(
                np.concatenate((sent, [0.0])),
                A_ub=vstack([usage, as_many], format="csr"),
                b_ub=np.concatenate((limits, [-solved.x[-1] * (1 - 1e-9)])),
                A_eq=balance,
                b_eq=zeros,
            )
        )
    return np.reshape(solved.x[:-1], (buckets, routes)), prices


def _checked(result: OptimizeResult) -> OptimizeResult:
    if not result.success:
        raise ConfigError(f"the clusters cannot serve this workload: {result.message}")
    return result


def _upper_bound(
    buckets: _Buckets,
    resources: Sequence[Resource],
    prices: FloatArray,
    route_count: int,
) -> float:
    """sum(prices) / E[min over routes of the priced use of a request], prices per full capacity."""

    def cheapest(tokens: FloatArray) -> FloatArray:
        cost = np.zeros((route_count, *tokens.shape))
        for price, resource in zip(prices, resources, strict=True):
            for number, function in resource.use.items():
                cost[number] += price / resource.capacity * function(tokens)
        return np.asarray(cost.min(axis=0))

    return float(prices.sum()) / buckets.expectation(cheapest)


def _flows(routes: Sequence[Route], rates: FloatArray, buckets: _Buckets) -> list[RouteFlow]:
    tokens, total = buckets.mean(lambda lengths: lengths), float(rates.sum())
    flows = []
    for number, route in enumerate(routes):
        rate = rates[:, number]
        some = np.flatnonzero(rate > total * 1e-9)
        if some.size:
            flows.append(
                RouteFlow(
                    prefill=route.prefill.name,
                    decode=route.decode.name,
                    share=float(rate.sum()) / total,
                    mean_tokens=float(tokens @ rate / rate.sum()),
                    shortest_tokens=float(max(buckets.edges[some[0]], buckets.lengths.low)),
                    longest_tokens=float(buckets.edges[some[-1] + 1]),
                )
            )
    return flows


def _prefill_nodes(
    routes: Sequence[Route], rates: FloatArray, buckets: _Buckets
) -> dict[str, float]:
    busy = {route.decode.name: 0.0 for route in routes}
    for number, route in enumerate(routes):
        if route.prefill.kind == "pd":
            seconds = cast(Function, route.prefill.profile.prefill_or_refuse.seconds)
            busy[route.prefill.name] += float(buckets.mean(seconds) @ rates[:, number])
    return busy


def _one_threshold(
    rates: FloatArray, offloads: NDArray[np.bool_], edges: FloatArray
) -> float | None:
    """The threshold, if offloaded shares by bucket are 0, ..., 0, one fraction, 1, ..., 1."""
    share = rates[:, offloads].sum(axis=1) / np.maximum(rates.sum(axis=1), 1e-300)
    partial = np.flatnonzero((share > 1e-6) & (share < 1 - 1e-6))
    if partial.size > 1 or np.any(np.diff(share) < -1e-6) or share[0] > 0.5 or share[-1] < 0.5:
        return None
    first = int(np.flatnonzero(share > 1e-6)[0])
    inside = 1 - share[first]
    return float(edges[first] + inside * (edges[first + 1] - edges[first]))
