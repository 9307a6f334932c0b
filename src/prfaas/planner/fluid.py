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

import msgspec
import numpy as np
from numpy.typing import NDArray

from prfaas.models.interpolation import FloatArray
from prfaas.planner.buckets import Buckets, buckets_for
from prfaas.planner.demand import Demand
from prfaas.planner.program import Program
from prfaas.planner.routes import Resource, Route, Splits, resources_of, routes_of
from prfaas.planner.sites import Cluster, Line


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
    buckets: int | None = None,
) -> FluidOptimum:
    """The largest request rate and a routing that reaches it with the fewest bytes on lines.

    Args:
        splits: (N_p, N_d) of every PD cluster; None: elastic roles.
        buckets: into how many the lengths are cut, about; None: as fine as the routes allow.

    The elastic optimum is the bound for every policy on the same hardware, in the simulator too.
    Raises ConfigError for clusters that cannot serve the demand.
    """
    routes = routes_of(clusters, lines, splits)
    resources = resources_of(demand, clusters, lines, routes, splits)
    cut = Buckets(demand.lengths, buckets or buckets_for(len(routes)))
    program = Program(resources, cut, len(routes))
    rates, prices = program.solve()
    total = float(rates.sum())
    used = program.used(rates)
    offloads = np.array([route.prefill.kind == "prfaas" for route in routes])
    sent = [used[k] * r.capacity for k, r in enumerate(resources) if r.is_line]
    return FluidOptimum(
        lambda_max=total,
        upper_bound=_upper_bound(cut, resources, prices, len(routes)),
        elastic=splits is None,
        flows=_flows(routes, rates, cut),
        utilisation={r.name: float(used[k]) for k, r in enumerate(resources)},
        prefill_nodes=_prefill_nodes(demand, routes, rates, cut),
        offloaded_share=float(rates[:, offloads].sum()) / total,
        egress_bytes_per_s=float(sum(sent)),
        threshold_tokens=_one_threshold(rates, offloads, cut.edges),
    )


def _upper_bound(
    buckets: Buckets,
    resources: Sequence[Resource],
    prices: FloatArray,
    route_count: int,
) -> float:
    """sum(prices) / E[min over routes of the priced use of a request], prices per full capacity."""

    def cheapest(tokens: FloatArray) -> FloatArray:
        cost = np.zeros((route_count, *tokens.shape))
        for price, resource in zip(prices, resources, strict=True):
            if price > 0:
                for function, numbers in resource.by_function():
                    cost[numbers] += price / resource.capacity * function(tokens)
        return np.asarray(cost.min(axis=0))

    return float(prices.sum()) / buckets.expectation(cheapest)


def _flows(routes: Sequence[Route], rates: FloatArray, buckets: Buckets) -> list[RouteFlow]:
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
    demand: Demand, routes: Sequence[Route], rates: FloatArray, buckets: Buckets
) -> dict[str, float]:
    busy = {route.decode.name: 0.0 for route in routes}
    for number, route in enumerate(routes):
        if route.prefill.kind == "pd":
            seconds = buckets.mean(demand.prefill_s(route.prefill))
            busy[route.prefill.name] += float(seconds @ rates[:, number])
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
