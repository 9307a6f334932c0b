"""The best split of every PD cluster into whole prefill and decode nodes.

Theory of operation. The linear program of the fluid optimum with one whole number more for each PD
cluster: how many of its nodes prefill. Clusters that are alike make thousands of splits almost
equally good, so coarse buckets find one, and proving that no other is a little better is not tried
where there are many clusters. The split found is then planned with fine buckets.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array, hstack

from prfaas.core.errors import ConfigError
from prfaas.planner.buckets import Buckets
from prfaas.planner.demand import Demand
from prfaas.planner.program import Program
from prfaas.planner.routes import Resource, Splits, resources_of, routes_of
from prfaas.planner.sites import Cluster, Line

_COLUMNS = 640
"""Buckets times routes, about: 40 routes are then searched in a tenth of a second."""
_BUCKETS = (16, 128)
_FEW_CLUSTERS = 3
_GAP_FEW, _GAP_MANY = 1e-4, 5e-3
"""How far below the best split, at most, the one taken may be, by the number of PD clusters."""


def whole_nodes(demand: Demand, clusters: Sequence[Cluster], lines: Sequence[Line]) -> Splits:
    """(N_p, N_d) of every PD cluster, whole numbers.

    Raises ConfigError where the clusters cannot serve the demand.
    """
    pd = [cluster for cluster in clusters if cluster.kind == "pd"]
    # Of one node each: what they may use is then the number of nodes.
    one_each = {cluster.name: (1.0, 1.0) for cluster in pd}
    routes = routes_of(clusters, lines, one_each)
    resources = resources_of(demand, clusters, lines, routes, one_each)
    count = int(np.clip(_COLUMNS // len(routes), *_BUCKETS))
    program = Program(resources, Buckets(demand.lengths, count), len(routes))
    nodes, limits = _node_columns(resources, pd)
    columns = program.lambda_column + 1
    whole = np.concatenate((np.zeros(columns), np.ones(len(pd))))
    most = np.concatenate((np.full(columns, np.inf), [c.instances for c in pd]))
    balance = hstack([program.balance, csr_array((program.balance.shape[0], len(pd)))])
    found = milp(
        np.concatenate((program.most(), np.zeros(len(pd)))),
        constraints=[
            LinearConstraint(hstack([program.usage, nodes]), -np.inf, limits),
            LinearConstraint(balance, 0.0, 0.0),
        ],
        integrality=whole,
        bounds=Bounds(0.0, most),
        options={"mip_rel_gap": _GAP_FEW if len(pd) <= _FEW_CLUSTERS else _GAP_MANY},
    )
    if found.x is None:
        raise ConfigError(f"the clusters cannot serve this workload: {found.message}")
    prefill = np.rint(found.x[columns:])
    return {c.name: (float(n), float(c.instances - n)) for c, n in zip(pd, prefill, strict=True)}


def _node_columns(
    resources: Sequence[Resource], pd: Sequence[Cluster]
) -> tuple[csr_array, list[float]]:
    """What prefill nodes add to and take from each resource, and the limits without any."""
    nodes = np.zeros((len(resources), len(pd)))
    limits = [1.0] * len(resources)
    for row, resource in enumerate(resources):
        for column, cluster in enumerate(pd):
            if resource.name == cluster.prefill_name:
                nodes[row, column], limits[row] = -1.0, 0.0
            elif resource.name == cluster.decode_name:
                nodes[row, column], limits[row] = 1.0, float(cluster.instances)
    return csr_array(nodes), limits
