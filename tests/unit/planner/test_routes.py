"""Ways to serve a request, and what they take."""

from __future__ import annotations

import numpy as np
import pytest

from prfaas.core.errors import ConfigError
from prfaas.models.profiles import load_profile
from prfaas.planner.demand import Demand
from prfaas.planner.routes import resources_of, routes_of
from prfaas.planner.sites import Cluster, Line
from prfaas.workload.lengths import TruncatedLogNormal

H200, H20 = load_profile("paper-1t-h200"), load_profile("paper-1t-h20-fit")
EAST = Cluster(name="east", kind="prfaas", profile=H200, instances=4)
WEST = Cluster(name="west", kind="pd", profile=H20, instances=8)
SOUTH = Cluster(name="south", kind="pd", profile=H20, instances=3)
LINES = [
    Line(source="east", target="west", bytes_per_s=1e9),
    Line(source="south", target="west", bytes_per_s=2e9),
]
CLUSTERS = [EAST, WEST, SOUTH]
assert H200.kv is not None
DEMAND = Demand(
    lengths=TruncatedLogNormal(9.9, 1.0, 128, 131072),
    output_tokens=1024,
    kv=H200.kv,
    tokens_per_s=40,
)


def names(splits: dict[str, tuple[float, float]] | None) -> list[tuple[str, str]]:
    return [(r.prefill.name, r.decode.name) for r in routes_of(CLUSTERS, LINES, splits)]


def test_every_pd_cluster_serves_itself_and_every_line_is_a_route() -> None:
    assert names(None) == [
        ("west", "west"), ("south", "south"), ("east", "west"), ("south", "west"),
    ]  # fmt: skip


def test_nodes_that_are_not_there_serve_nobody() -> None:
    assert names({"west": (0, 8), "south": (3, 0)}) == [("east", "west"), ("south", "west")]
    assert names({"west": (8, 0), "south": (0, 3)}) == []


def test_a_cluster_without_a_line_is_named() -> None:
    with pytest.raises(ConfigError, match="'east' has no line to a PD cluster"):
        routes_of(CLUSTERS, LINES[1:], None)


def test_elastic_nodes_are_one_resource_split_ones_two() -> None:
    at = np.array([8192.0])
    decode_s = 1024 * 0.025 / 20
    prefill_s = float(H20.prefill_or_refuse.seconds(8192))
    elastic = resources_of(DEMAND, CLUSTERS, LINES, routes_of(CLUSTERS, LINES, None), None)
    assert [r.name for r in elastic] == [
        "east prefill", "west", "south", "line east to west", "line south to west",
    ]  # fmt: skip
    west = elastic[1]
    assert {number: float(f(at)[0]) for number, f in west.use.items()} == pytest.approx(
        {0: prefill_s + decode_s, 2: decode_s, 3: decode_s}
    )
    splits = {"west": (3.0, 5.0), "south": (1.0, 2.0)}
    split = resources_of(DEMAND, CLUSTERS, LINES, routes_of(CLUSTERS, LINES, splits), splits)
    capacities = {r.name: r.capacity for r in split}
    assert capacities["west prefill"] == 3
    assert capacities["west decode"] == 5
    assert capacities["line east to west"] == 1e9


def test_routes_that_take_the_same_share_one_function() -> None:
    routes = routes_of(CLUSTERS, LINES, None)
    west = resources_of(DEMAND, CLUSTERS, LINES, routes, None)[1]
    assert sorted(numbers for _, numbers in west.by_function()) == [[0], [2, 3]]
