"""One file for those who run a deployment and those who plan it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from prfaas.core.deployment import parse_deployment
from prfaas.core.errors import ConfigError
from prfaas.description.file import load_workload, parse_description
from prfaas.planner.scenario import scenario_of
from prfaas.sim.build import build_workload, build_world
from prfaas.sim.runs import run_for

RUNNING = """
clusters:
  - name: east
    kind: prfaas
    agent: {name: ea}
    engines:
      - {name: e1, role: prefill, url: "http://h:1", kv_events: "tcp://h:2"}
  - name: west
    kind: pd
    profile: paper-1t-h20-fit
    agent: {name: wa}
    engines:
      - {name: p1, role: prefill, url: "http://h:3", kv_events: "tcp://h:4"}
      - {name: d1, role: decode, url: "http://h:5", kv_events: "tcp://h:6", max_num_seqs: 10}
      - {name: d2, role: decode, url: "http://h:7", kv_events: "tcp://h:8", kv_tokens: 1M}
links: [{from: east, to: west, rate: 10 Gbps, rtt: 20 ms}]
model: {block_tokens: 64}
"""
ASKED = """
workload:
  lengths: {lognormal: {}}
  output_tokens: 200
  arrivals: {rate: 0.5}
prices: {usd_per_gpu_hour: {east: 4, west: 3}}
experiments: {seed: 4}
"""


def test_the_running_systems_file_is_planned_and_simulated() -> None:
    described = parse_description(RUNNING + ASKED, source="f").with_profiles(
        {"east": "paper-1t-h200"}
    )
    scenario = scenario_of(described, source="f", beside=Path())
    assert [(c.name, c.instances) for c in scenario.clusters] == [("east", 1), ("west", 3)]
    workload = build_workload(described, beside=Path()).first(20)
    world = build_world(described, run_for(described, "naive"), workload, beside=Path())
    assert [e.name for e in world.topology.engines] == ["e1", "p1", "d1", "d2"]
    d1, d2 = world.topology.engines[2:]
    assert (d1.max_requests, d1.kv_tokens) == (10, None)
    assert (d2.max_requests, d2.kv_tokens) == (20, 2**20)
    [link] = world.topology.links
    assert (link.rate_bytes_per_s, link.rtt_s) == (1.25e9, 0.02)


def test_those_who_run_it_read_the_same_file() -> None:
    assert parse_deployment(RUNNING + ASKED, source="f").cluster("west").kind == "pd"


def test_instances_cannot_run() -> None:
    text = "clusters: [{name: w, kind: pd, instances: {count: 2, profile: paper-1t-h20-fit}}]"
    parse_description(text, source="f")
    with pytest.raises(ConfigError, match="instances have no address"):
        parse_deployment(text, source="f")
    both = text.replace("kind: pd,", "kind: pd, engines: [{name: d, role: decode}],")
    with pytest.raises(ConfigError, match="instances and machines exclude each other"):
        parse_description(both, source="f")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("    profile: paper-1t-h20-fit\n", "", "cluster 'west': how fast engine 'p1' would be"),
        ("rate: 10 Gbps, ", "", "how much it carries is not known"),
        ("arrivals: {rate: 0.5}", "prefix_hit_rat: 1", "did you mean 'prefix_hit_rate'"),
        ("{east: 4, west: 3}", "{east: 4, wst: 3}", "no cluster 'wst'; known: east, west"),
        ("prices: {", "prices: {links: [{from: west, to: east}], ", "there is no link from west"),
        ("seed: 4", "line_changes: [{from: west, to: east, at: 1 s, cut: true}]", "no link from w"),
        ("seed: 4", "line_changes: [{from: east, to: west, at: 1 s}]", "either rate: .* or cut"),
    ],
)
def test_a_mistake_is_answered_with_what_to_write(old: str, new: str, says: str) -> None:
    text = RUNNING + ASKED
    assert old in text
    with pytest.raises(ConfigError, match=says):
        scenario_of(
            parse_description(text.replace(old, new), source="f").with_profiles(
                {"e1": "paper-1t-h200"}
            ),
            source="f",
            beside=Path(),
        )


def test_a_profile_for_nobody_is_refused() -> None:
    with pytest.raises(ConfigError, match="no cluster or engine 'mars'; known: d1, d2, e1, east"):
        parse_description(RUNNING, source="f").with_profiles({"mars": "paper-1t-h200"})


def test_without_a_workload_it_says_where_one_may_come_from() -> None:
    with pytest.raises(ConfigError, match="--workload FILE or --trace FILE"):
        _ = parse_description(RUNNING, source="f").asked


def test_a_workload_in_a_file_of_its_own_names_files_beside_it(tmp_path: Path) -> None:
    (tmp_path / "asked.yaml").write_text("trace: {file: t.jsonl, clip: 8K}")
    source = load_workload(tmp_path / "asked.yaml").source
    assert source is not None
    assert (source.file, source.clip) == (str(tmp_path / "t.jsonl"), "8K")
    (tmp_path / "asked.yaml").write_text("{lengths: {lognormal: {}}, output_tokens: 0}")
    with pytest.raises(ConfigError, match="write 1 or more"):
        load_workload(tmp_path / "asked.yaml")


def test_roles_that_nobody_fixed_are_the_planners() -> None:
    text = (Path(__file__).parents[3] / "examples" / "paper.yaml").read_text()
    split = "      - {role: prefill, count: 3}\n      - {role: decode, count: 5}\n"
    assert split in text
    described = parse_description(text.replace(split, "      - {count: 8}\n"), source="f")
    workload = build_workload(described, beside=Path()).first(5)
    run = run_for(described, "threshold")
    world = build_world(described, run, workload, beside=Path())
    roles = [e.role for e in world.topology.engines if e.cluster == "west"]
    assert (roles.count("prefill"), roles.count("decode")) == (3, 5)
    other = msgspec.structs.replace(run, instances=run_for(described, "naive").instances)
    world = build_world(described, other, workload, beside=Path())
    assert len(world.topology.engines) == 12
