"""The fluid optimum: certificate, agreement with the search, several sites."""

from __future__ import annotations

import msgspec
import pytest

from prfaas.core.errors import ConfigError
from prfaas.models.profiles import load_profile
from prfaas.planner.demand import Demand, decode_point
from prfaas.planner.fluid import fluid_optimum
from prfaas.planner.sites import Cluster, Line
from prfaas.planner.split import TwoClusters
from prfaas.workload.lengths import TruncatedLogNormal

H200, H20 = load_profile("paper-1t-h200"), load_profile("paper-1t-h20-fit")
EAST = Cluster(name="east", kind="prfaas", profile=H200, instances=4)
WEST = Cluster(name="west", kind="pd", profile=H20, instances=8)
LINE = Line(source="east", target="west", bytes_per_s=12.5e9)
assert H200.kv is not None
DEMAND = Demand(
    lengths=TruncatedLogNormal(9.9, 1.0, 128, 131072),
    output_tokens=1024,
    kv=H200.kv,
    tokens_per_s=40,
)


def test_the_elastic_bound_of_the_case_study() -> None:
    bound = fluid_optimum(DEMAND, [EAST, WEST], [LINE])
    assert bound.lambda_max == pytest.approx(3.33, abs=0.01)
    assert bound.threshold_tokens == pytest.approx(22_000, rel=0.02)
    assert bound.lambda_max <= bound.upper_bound <= bound.lambda_max * 1.0001
    assert sum(flow.share for flow in bound.flows) == pytest.approx(1)
    assert bound.utilisation["west"] == pytest.approx(1)


def test_whole_nodes_agree_with_the_threshold_search() -> None:
    fixed = fluid_optimum(DEMAND, [EAST, WEST], [LINE], splits={"west": (3, 5)})
    search = TwoClusters(
        DEMAND,
        prfaas=H200.prefill_or_refuse,
        pd_prefill=H20.prefill_or_refuse,
        decode=decode_point(H20.decode_or_refuse, 40),
        line_bytes_per_s=LINE.bytes_per_s,
    ).best(4, 8, "exact")
    assert fixed.lambda_max == pytest.approx(search.lambda_max, rel=1e-3)
    assert fixed.threshold_tokens == pytest.approx(search.threshold_tokens, rel=0.01)


def test_a_thin_line_is_filled_and_no_more() -> None:
    thin = msgspec.structs.replace(LINE, bytes_per_s=5e8)
    optimum = fluid_optimum(DEMAND, [EAST, WEST], [thin])
    assert optimum.utilisation["line east to west"] == pytest.approx(1, abs=1e-4)
    assert optimum.egress_bytes_per_s == pytest.approx(5e8, rel=1e-4)


def test_a_second_site_adds_capacity_and_lines_are_kept_apart() -> None:
    north = msgspec.structs.replace(EAST, name="north", instances=2)
    south = msgspec.structs.replace(WEST, name="south", instances=4)
    lines = [
        LINE,
        Line(source="north", target="south", bytes_per_s=1.25e9),
        Line(source="east", target="south", bytes_per_s=1.25e9),
    ]
    one = fluid_optimum(DEMAND, [EAST, WEST], [LINE])
    two = fluid_optimum(DEMAND, [EAST, north, WEST, south], lines)
    assert two.lambda_max == pytest.approx(1.5 * one.lambda_max, rel=0.01)
    assert all(used <= 1 + 1e-6 for used in two.utilisation.values())


def test_a_node_that_does_not_prefill_offloads_everything() -> None:
    naive = fluid_optimum(DEMAND, [EAST, WEST], [LINE], splits={"west": (0, 8)})
    assert naive.offloaded_share == pytest.approx(1)
    assert naive.threshold_tokens is None


def test_between_equal_clusters_the_longest_cross() -> None:
    """Any choice serves as many; the longest take the fewest constant states along."""
    twin = Cluster(name="east", kind="prfaas", profile=H20, instances=8)
    optimum = fluid_optimum(DEMAND, [twin, WEST], [msgspec.structs.replace(LINE, bytes_per_s=1e12)])
    assert optimum.lambda_max <= optimum.upper_bound <= optimum.lambda_max * 1.001
    assert optimum.threshold_tokens is not None
    longer = DEMAND.lengths.share_above(optimum.threshold_tokens)
    assert longer == pytest.approx(optimum.offloaded_share, rel=0.01)


def test_offloading_the_shortest_is_no_threshold() -> None:
    east = Cluster(name="east", kind="prfaas", profile=H20, instances=8)
    fast = msgspec.structs.replace(H200, decode=H20.decode)
    west = Cluster(name="west", kind="pd", profile=fast, instances=8)
    optimum = fluid_optimum(DEMAND, [east, west], [LINE])
    assert 0 < optimum.offloaded_share < 1
    assert optimum.threshold_tokens is None


def test_a_prefill_cluster_without_a_line_is_named() -> None:
    with pytest.raises(ConfigError, match="'east' has no line"):
        fluid_optimum(DEMAND, [EAST, WEST], [])
