"""Plans by what is found at their own operating point."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.unit.planner.pools import TEXT, written

from prfaas.core.errors import ConfigError
from prfaas.planner.compare import plan, two_clusters, walked_through
from prfaas.planner.demand import Observed
from prfaas.planner.pool_plan import WalkedScenario, curve_of, without_pool
from prfaas.planner.scenario import Scenario, load_scenario, parse_scenario
from prfaas.planner.whatif import what_ifs
from prfaas.testing.conversation_trace import conversation_trace

PAPER = Path(__file__).parents[3] / "examples" / "paper.yaml"


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    folder = tmp_path_factory.mktemp("pool")
    written(conversation_trace(60, rate=0.5), folder / "t.jsonl")
    return parse_scenario(TEXT + "workload: {trace: t.jsonl}\n", source="test", beside=folder)


@pytest.fixture(scope="module")
def walked(scenario: Scenario) -> WalkedScenario:
    found = walked_through(scenario)
    assert isinstance(found, WalkedScenario)
    return found


def test_nothing_observed_changes_no_figure() -> None:
    """To the last digit."""
    paper = load_scenario(PAPER)
    nothing = Observed(
        prfaas_s=np.zeros_like,
        pd_s=np.zeros_like,
        sent_bytes=np.zeros_like,
        pulled_bytes=np.zeros_like,
    )
    demand = msgspec.structs.replace(paper.demand, observed=nothing)
    observed = plan(msgspec.structs.replace(paper, demand=demand))
    expected = plan(paper)
    assert observed.deployments == expected.deployments
    assert observed.fluid_bound == expected.fluid_bound


@pytest.mark.parametrize("how", ["mean-length", "exact"])
def test_what_is_observed_counts_where_it_belongs(how: str) -> None:
    paper = load_scenario(PAPER)

    def lambdas(**seen: float) -> tuple[float, float | None, float | None, float]:
        parts = {"prfaas_s": 0.0, "pd_s": 0.0, "sent_bytes": 0.0, "pulled_bytes": 0.0} | seen
        functions = {
            name: (lambda tokens, value=value: np.full_like(tokens, value))
            for name, value in parts.items()
        }
        demand = msgspec.structs.replace(paper.demand, observed=Observed(**functions))
        model = two_clusters(msgspec.structs.replace(paper, demand=demand))
        found = model.at(20_000.0, 4, 3, 5, how)  # type: ignore[arg-type]
        index = int(np.searchsorted(model.thresholds, 20_000.0))
        assert model.lambdas(4, 3, 5, how)[index] == pytest.approx(found.lambda_max, rel=0.01)  # type: ignore[arg-type]
        return found.lambda_max, found.theta_prfaas, found.theta_pd_p, found.egress_bytes_per_s

    lam, far, near, egress = lambdas()
    assert far is not None
    assert near is not None
    slower = lambdas(prfaas_s=1.0)
    assert 4 / slower[1] == pytest.approx(4 / far + 1.0)  # type: ignore[operator]
    assert slower[2] == near
    slower = lambdas(pd_s=1.0)
    assert 3 / slower[2] == pytest.approx(3 / near + 1.0)  # type: ignore[operator]
    assert slower[1] == far
    more = lambdas(sent_bytes=1e9)
    assert more[3] > egress
    assert more[0] <= lam
    pulls = lambdas(pulled_bytes=1e9)
    assert pulls[3] > egress
    assert lambdas(pulled_bytes=1e11)[0] < 0.2 * lam  # The line is full of them.


def test_the_plan_is_that_of_what_it_finds(scenario: Scenario, walked: WalkedScenario) -> None:
    assert walked.repeats
    assert walked.demand.observed is not None
    assert 0.3 < walked.hits.found < 0.9
    assert walked.prefix_hit_rate == walked.hits.found
    result = plan(scenario)
    ours, homogeneous, naive = result.deployments
    assert ours.hits == walked.hits
    assert homogeneous.hits is not None
    assert homogeneous.hits.line == 0.0
    assert naive.offloaded_share == 1.0
    assert naive.hits is not None
    assert naive.hits.lan == 0.0  # Machines that only prefill have no network of their own.
    assert any("walked" in note for note in result.notes)
    bare = two_clusters(without_pool(walked)).best(1, 3, "mean-length")
    assert ours.lambda_max_req_per_s > 1.2 * bare.lambda_max
    assert ours.ttft is not None
    loads_s = walked.hits.fetch_s * walked.hits.fetching_share
    assert ours.ttft.mean_s > loads_s > 0


def test_what_if_the_pool_were_another(walked: WalkedScenario) -> None:
    (ours,) = (d for d in plan(walked).deployments if d.name == "prfaas_pd")
    rows = {row.change: row for row in what_ifs(walked, ours)}
    assert rows["every line x 2"].relative >= 1.0
    assert not any("hit rate" in change for change in rows)
    assert rows["no agents' caches"].relative < 0.85
    (in_place,) = (row for change, row in rows.items() if change.endswith("pd GPUs more"))
    assert in_place.relative >= 1.0
    assert in_place.n_p + in_place.n_d > 3
    assert rows["no disk for caches"].relative < 1.02
    assert (
        rows["no bound to caches in memory"].relative > rows["half the memory for caches"].relative
    )


def test_a_curve_is_at_the_plans_operating_point(walked: WalkedScenario) -> None:
    curve = curve_of(walked)
    (same,) = (point for point in curve if point.memory_bytes == 8 << 30)
    assert same.hits == walked.hits


def test_a_fixed_hit_rate_and_agents_caches_exclude_each_other() -> None:
    text = TEXT + "workload: {lengths: {lognormal: {}}, output_tokens: 9, prefix_hit_rate: 0.5}\n"
    with pytest.raises(
        ConfigError, match="prefix_hit_rate and prefix_cache of cluster 'east' exclude"
    ):
        parse_scenario(text, source="test", beside=Path())


def test_where_nothing_can_be_found_or_walked_is_said(tmp_path: Path) -> None:
    drawn = TEXT + "workload: {lengths: {lognormal: {}}, output_tokens: 9}\n"
    (note,) = parse_scenario(drawn, source="test", beside=Path()).notes
    assert "does not say which prompts share a prefix" in note
    written(conversation_trace(3, rate=1.0), tmp_path / "t.jsonl")
    unsaid = TEXT.replace("lan: {rate: 100 Gbps}", "lan: {}") + "workload: {trace: t.jsonl}\n"
    (note,) = parse_scenario(unsaid, source="test", beside=tmp_path).notes
    assert "has no lan.rate" in note
    several = TEXT.replace(
        "links: [",
        "  - {name: south, kind: pd, profile: paper-1t-h20-fit, instances: {count: 2}}\nlinks: [",
    )
    found = parse_scenario(several + "workload: {trace: t.jsonl}\n", source="test", beside=tmp_path)
    assert found.site is None
    assert "loads are not counted" in found.notes[0]
    assert found.prefix_hit_rate > 0
