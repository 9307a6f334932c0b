"""Files of earlier versions say the same in today's words."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from prfaas.cli.main import main
from prfaas.core.errors import ConfigError
from prfaas.description.earlier import converted, form_of
from prfaas.description.experiments import Split
from prfaas.description.file import Description, load_description, parse_description

PLAN = """
name: old plan
workload:
  lengths: {lognormal: {mu: 9.9, sigma: 1.0, low: 128, high: 128K}}
  output_tokens: 1024
  prefix_hit_rate: 0.2
slo: {tokens_per_s: 40, ttft: {within: 8 s, percentile: 99}}
clusters:
  - {name: east, kind: prfaas, profile: paper-1t-h200, instances: 4, usd_per_gpu_hour: 4.5}
  - {name: west, kind: pd, profile: paper-1t-h20-fit, instances: 8, usd_per_gpu_hour: 3}
lines:
  - {from: east, to: west, bandwidth: 100 Gbps, rtt: 20 ms, usd_per_month: 9, usd_per_gb: 0.1}
model: Kimi-Linear-48B-A3B
kv_dtype: fp8
expectations: exact
"""
SIMULATION = """
clusters:
  - {name: east, kind: prfaas, prefill: {instances: 2, profile: paper-1t-h200}, cache: 16M}
  - name: west
    kind: pd
    prefill: {instances: 1, profile: paper-1t-h20-fit}
    decode: {instances: 3, profile: paper-1t-h20-fit, batch: 10, kv_tokens: 2M}
links:
  - {from: east, to: west, rate: 9 Gbps, loss: 0.01, changes: [{at: 9 s, cut: true}]}
workload: {requests: 6, lengths: {mu: 8.8}, arrivals: {rate: 3}}
scheduler: {threshold: 19400}
block_tokens: 128
deadline: 60 s
costs: learned
seed: 7
failures: [{engine: west-decode-0, at: 1 s, for: 2 s}]
runs: [{name: a, instances: {west: {prefill: 2, decode: 2}}}]
slo: {ttft: 9 s, tpot: 25 ms}
"""


def rewritten(text: str) -> Description:
    new, _ = converted(msgspec.yaml.decode(text))
    return parse_description(msgspec.yaml.encode(new), source="new")


def test_a_plan() -> None:
    found = rewritten(PLAN)
    assert found.name == "old plan"
    assert [pool.count for c in found.clusters for pool in c.pools] == [4, 8]
    assert found.links[0].rate == "100 Gbps"
    assert found.links[0].rtt == "20 ms"
    assert found.prices.usd_per_gpu_hour == {"east": 4.5, "west": 3}
    price = found.prices.of_link("east", "west")
    assert (price.usd_per_month, price.usd_per_gb) == (9, 0.1)
    assert (found.slo.tpot_s, found.slo.ttft_s, found.slo.ttft_percentile) == (0.025, 8, 99)
    assert (found.model.path, found.model.kv_dtype) == ("Kimi-Linear-48B-A3B", "fp8")
    assert found.experiments.expectations == "exact"
    assert found.asked.prefix_hit_rate == 0.2


def test_a_plan_of_a_trace_keeps_its_cache_beside_the_cluster() -> None:
    old = msgspec.yaml.decode(PLAN)
    old["workload"] = {"lengths": {"trace": {"file": "t.jsonl", "prefix_cache": "50M"}}}
    found = rewritten(msgspec.yaml.encode(old).decode())
    assert [cluster.prefix_cache for cluster in found.clusters] == [0, "50M"]
    old["workload"]["lengths"]["trace"].pop("prefix_cache")
    found = rewritten(msgspec.yaml.encode(old).decode())
    assert found.clusters[1].prefix_cache == "unbounded"


def test_a_simulation() -> None:
    found = rewritten(SIMULATION)
    west = found.clusters[1]
    assert [(p.role, p.count, p.max_num_seqs, p.kv_tokens) for p in west.pools] == [
        ("prefill", 1, None, None),
        ("decode", 3, 10, "2M"),
    ]
    assert found.clusters[0].prefix_cache == "16M"
    assert found.gateway.request_deadline_s == 60
    assert found.model.block_tokens == 128
    tried = found.experiments
    assert (tried.seed, tried.costs) == (7, "learned")
    assert [(c.source, c.target, c.at, c.cut) for c in tried.line_changes] == [
        ("east", "west", "9 s", True)
    ]
    assert tried.runs[0].instances == {"west": Split(prefill=2, decode=2)}
    assert found.asked.lengths is not None
    assert found.asked.lengths.lognormal is not None
    assert found.asked.lengths.lognormal.mu == 8.8
    assert found.asked.output_tokens == 1024


@pytest.mark.parametrize("text", [PLAN, SIMULATION], ids=["plan", "simulation"])
def test_the_verb_writes_what_every_verb_reads_and_says_what_it_cannot_carry_over(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text(text)
    assert main(["plan", str(old)]) == 2
    assert f"'prfaas convert {old}' writes it anew" in capsys.readouterr().err
    assert main(["convert", str(old), "-o", str(new)]) == 0
    assert "comments are not carried over" in capsys.readouterr().err
    assert main(["plan", str(new), "--json"]) == 0
    assert main(["convert", str(old), "-o", str(new)]) == 2
    assert "exists" in capsys.readouterr().err
    assert main(["convert", str(new)]) == 2


def test_todays_files_are_of_no_earlier_form(tmp_path: Path) -> None:
    for example in (Path(__file__).parents[3] / "examples").glob("*.yaml"):
        assert form_of(msgspec.yaml.decode(example.read_bytes())) is None
    with pytest.raises(ConfigError, match="needs no converting"):
        converted({"clusters": []})
    with pytest.raises(ConfigError, match="not what a plan's scenario was"):
        converted({"clusters": [{"instances": 3}]})
    (tmp_path / "x.yaml").write_text("clusters: [{nme: a}]")
    with pytest.raises(ConfigError, match="did you mean 'name'"):
        load_description(tmp_path / "x.yaml")
