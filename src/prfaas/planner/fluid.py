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
from prfaas.core.interpolation import FloatArray
from prfaas.core.lengths import Function
from prfaas.planner.routes import Resource, Route, Splits, resources_of, routes_of
from prfaas.planner.sites import Cluster, Line
from prfaas.planner.split import Demand

BUCKETS = 256


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
    The elastic optimum is the bound for every policy on the same hardware, in the simulator too.
    Raises ConfigError for clusters that cannot serve the demand.
    """
    routes = routes_of(clusters, lines, splits)
    resources = resources_of(demand, clusters, lines, routes, splits)
    edges = _edges(demand, buckets)
    share = demand.lengths.bucket_expectations(np.ones_like, edges)
    edges, share = _without_empty(edges, share)
    # Row k, column b * R + r: units of resource k per request of bucket b on route r.
    use = _per_request(demand, resources, edges, share, len(routes))
    solution, bound = _solve(demand, routes, resources, use, share)
    rates = np.reshape(solution[:-1], (share.size, len(routes)))
    return _describe(demand, routes, resources, use, edges, rates, bound, elastic=splits is None)


def _edges(demand: Demand, buckets: int) -> FloatArray:
    """Half the cuts at equal shares of requests, half at equal steps of length."""
    lengths = demand.lengths
    quantiles = lengths.quantile(np.linspace(0, 1, buckets // 2 + 1))
    edges = np.union1d(quantiles, np.linspace(lengths.low, lengths.high, buckets // 2 + 1))
    edges[0] = np.nextafter(lengths.low, -np.inf)
    return edges


def _without_empty(edges: FloatArray, share: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Join buckets that hold no request to the one after them."""
    keep = share > 1e-9
    return np.concatenate((edges[:1], edges[1:][keep])), share[keep]


def _per_request(
    demand: Demand,
    resources: Sequence[Resource],
    edges: FloatArray,
    share: FloatArray,
    route_count: int,
) -> FloatArray:
    use = np.zeros((len(resources), share.size, route_count))
    for k, resource in enumerate(resources):
        for number, function in resource.use.items():
            use[k, :, number] = demand.lengths.bucket_expectations(function, edges) / share
    return use


def _solve(
    demand: Demand,
    routes: Sequence[Route],
    resources: Sequence[Resource],
    use: FloatArray,
    share: FloatArray,
) -> tuple[FloatArray, float]:
    """Rates (and lambda last) of the optimum with the fewest line bytes; the upper bound."""
    count, size = len(routes), share.size * len(routes)
    capacity = np.array([resource.capacity for resource in resources])
    # Scaled so that every capacity is 1: bytes and seconds differ by ten orders of magnitude.
    usage = csr_array(use.reshape(len(resources), size) / capacity[:, None])
    usage = hstack([usage, csr_array((len(resources), 1))], format="csr")
    spread = np.repeat(np.arange(share.size), count)
    balance = csr_array((np.ones(size), (spread, np.arange(size))), shape=(share.size, size))
    balance = hstack([balance, csr_array(-share[:, None])], format="csr")
    objective = np.zeros(size + 1)
    objective[-1] = -1.0
    ones, zeros = np.ones(len(resources)), np.zeros(share.size)
    first = linprog(objective, A_ub=usage, b_ub=ones, A_eq=balance, b_eq=zeros)
    _check(first)
    best = float(first.x[-1])
    bound = _upper_bound(demand, resources, capacity, -first.ineqlin.marginals, count)
    line_rows = [k for k, resource in enumerate(resources) if resource.is_line]
    if not line_rows:
        return first.x, bound
    traffic = (
        np.concatenate((use[line_rows].sum(axis=0).ravel(), [0.0])) / capacity[line_rows].max()
    )
    keep = csr_array(([-1.0], ([0], [size])), shape=(1, size + 1))
    second = linprog(
        traffic,
        A_ub=vstack([usage, keep], format="csr"),
        b_ub=np.concatenate((ones, [-best * (1 - 1e-9)])),
        A_eq=balance,
        b_eq=zeros,
    )
    _check(second)
    return second.x, bound


def _check(result: OptimizeResult) -> None:
    if not result.success:
        raise ConfigError(f"the clusters cannot serve this workload: {result.message}")


def _upper_bound(
    demand: Demand,
    resources: Sequence[Resource],
    capacity: FloatArray,
    prices: FloatArray,
    route_count: int,
) -> float:
    """sum(prices) / E[min over routes of the priced use of a request], prices per full capacity."""

    def cheapest(tokens: FloatArray) -> FloatArray:
        cost = np.zeros((route_count, *tokens.shape))
        for price, full, resource in zip(prices, capacity, resources, strict=True):
            for number, function in resource.use.items():
                cost[number] += price / full * function(tokens)
        return np.asarray(cost.min(axis=0))

    return float(prices.sum()) / demand.lengths.expectation(cheapest)


def _describe(
    demand: Demand,
    routes: Sequence[Route],
    resources: Sequence[Resource],
    use: FloatArray,
    edges: FloatArray,
    rates: FloatArray,
    bound: float,
    *,
    elastic: bool,
) -> FluidOptimum:
    total = float(rates.sum())
    used = np.einsum("kbr,br->k", use, rates)
    offloads = np.array([route.prefill.kind == "prfaas" for route in routes])
    prefill_nodes = {route.decode.name: 0.0 for route in routes}
    mean_tokens = demand.lengths.bucket_expectations(_identity, edges)
    mean_tokens /= demand.lengths.bucket_expectations(np.ones_like, edges)
    flows = []
    for number, route in enumerate(routes):
        rate = rates[:, number]
        if route.prefill.kind == "pd":
            times = route.prefill.profile.prefill_or_refuse.seconds
            busy = demand.lengths.bucket_expectations(cast(Function, times), edges)
            busy /= demand.lengths.bucket_expectations(np.ones_like, edges)
            prefill_nodes[route.prefill.name] += float(busy @ rate)
        some = np.flatnonzero(rate > total * 1e-9)
        if some.size:
            flows.append(
                RouteFlow(
                    prefill=route.prefill.name,
                    decode=route.decode.name,
                    share=float(rate.sum()) / total,
                    mean_tokens=float(mean_tokens @ rate / rate.sum()),
                    shortest_tokens=float(max(edges[some[0]], demand.lengths.low)),
                    longest_tokens=float(edges[some[-1] + 1]),
                )
            )
    lines = [k for k, resource in enumerate(resources) if resource.is_line]
    return FluidOptimum(
        lambda_max=total,
        upper_bound=bound,
        elastic=elastic,
        flows=flows,
        utilisation={r.name: float(used[k] / r.capacity) for k, r in enumerate(resources)},
        prefill_nodes=prefill_nodes,
        offloaded_share=float(rates[:, offloads].sum()) / total,
        egress_bytes_per_s=float(used[lines].sum()),
        threshold_tokens=_one_threshold(rates, offloads, edges),
    )


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


def _identity(tokens: FloatArray) -> FloatArray:
    return tokens
