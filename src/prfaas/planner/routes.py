"""Ways to serve a request over several clusters, and what each of them takes of which resource."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from prfaas.core.errors import ConfigError
from prfaas.planner.demand import Demand, decode_point
from prfaas.planner.sites import Cluster, Line
from prfaas.workload.lengths import Function


class Route(msgspec.Struct, frozen=True):
    """Prefill in one cluster, decode in another; ``line`` where they differ."""

    prefill: Cluster
    decode: Cluster
    line: Line | None


class Resource(msgspec.Struct, frozen=True):
    """What bounds how much can be served, and how much of it each route takes."""

    name: str
    is_line: bool
    capacity: float
    """Nodes, or bytes per second of a line."""
    use: dict[int, Function]
    """By route number: units taken per request of a length. Routes that take the same share one
    function, which is then evaluated once."""

    def by_function(self) -> list[tuple[Function, list[int]]]:
        """Each function with the numbers of the routes that take so much."""
        numbers: dict[Function, list[int]] = {}
        for number, function in self.use.items():
            numbers.setdefault(function, []).append(number)
        return list(numbers.items())


Splits = Mapping[str, tuple[float, float]]
"""(N_p, N_d) by PD cluster."""


def routes_of(
    clusters: Sequence[Cluster], lines: Sequence[Line], splits: Splits | None
) -> list[Route]:
    """Every way to serve a request with the nodes there are (``splits`` None: elastic roles).

    Raises ConfigError if a PrfaaS cluster has nowhere to send.
    """
    by_name = {cluster.name: cluster for cluster in clusters}
    routes = [Route(c, c, None) for c in clusters if c.kind == "pd"]
    for line in lines:
        if by_name[line.target].kind == "pd":
            routes.append(Route(by_name[line.source], by_name[line.target], line))
    used = {route.prefill.name for route in routes}
    for cluster in clusters:
        if cluster.name not in used:
            raise ConfigError(f"cluster {cluster.name!r} has no line to a PD cluster; add one")
    if splits is None:
        return routes
    prefills = {name for name, (n_p, _) in splits.items() if n_p > 0}
    prefills |= {cluster.name for cluster in clusters if cluster.kind == "prfaas"}
    decodes = {name for name, (_, n_d) in splits.items() if n_d > 0}
    return [r for r in routes if r.prefill.name in prefills and r.decode.name in decodes]


def resources_of(
    demand: Demand,
    clusters: Sequence[Cluster],
    lines: Sequence[Line],
    routes: Sequence[Route],
    splits: Splits | None,
) -> list[Resource]:
    """Prefill time, decode slots and line bytes; elastic PD nodes (no ``splits``) are one resource.

    Capacities are nodes, and bytes per second for lines.
    """
    found = []
    for cluster in clusters:
        seconds = demand.prefill_s(cluster)
        prefill = [n for n, route in enumerate(routes) if route.prefill is cluster]
        if cluster.kind == "prfaas":
            found.append(_resource(cluster.prefill_name, cluster.instances, prefill, seconds))
            continue
        point = decode_point(cluster.profile.decode_or_refuse, demand.tokens_per_s)
        slot_s = _constant(1 / point.rate(1, demand.output_tokens))
        decode = [n for n, route in enumerate(routes) if route.decode is cluster]
        if splits is None:
            use = dict.fromkeys(prefill, seconds) | dict.fromkeys(decode, slot_s)
            use |= dict.fromkeys(set(prefill) & set(decode), _sum(seconds, slot_s))
            found.append(Resource(cluster.name, False, cluster.instances, use))
        else:
            n_p, n_d = splits[cluster.name]
            found.append(_resource(cluster.prefill_name, n_p, prefill, seconds))
            found.append(_resource(cluster.decode_name, n_d, decode, slot_s))
    sent = demand.sent_bytes()
    for line in lines:
        use = {n: sent for n, route in enumerate(routes) if route.line is line}
        if demand.observed is not None:
            here = (n for n, route in enumerate(routes) if route.line is None)
            use |= dict.fromkeys(here, demand.observed.pulled_bytes)
        found.append(Resource(f"line {line.name}", True, line.bytes_per_s, use))
    return [resource for resource in found if resource.use]


def _resource(name: str, nodes: float, routes: list[int], function: Function) -> Resource:
    return Resource(name, False, nodes, dict.fromkeys(routes, function))


def _constant(value: float) -> Function:
    return lambda tokens: np.full_like(tokens, value)


def _sum(first: Function, second: Function) -> Function:
    return lambda tokens: first(tokens) + second(tokens)
