"""Scenario files: the paper's, and what a mistake is answered with."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from prfaas.core.errors import ConfigError
from prfaas.description.file import parse_description
from prfaas.planner.scenario import Scenario, _cache_tokens, load_scenario, parse_scenario

EXAMPLE = Path(__file__).parents[3] / "examples" / "paper.yaml"
TEXT = EXAMPLE.read_text()


def parse(text: str, beside: Path = Path()) -> Scenario:
    return parse_scenario(text, source="plan.yaml", beside=beside)


def changed(old: str, new: str) -> str:
    assert old in TEXT
    return TEXT.replace(old, new)


def test_the_example_is_the_case_study() -> None:
    scenario = load_scenario(EXAMPLE)
    assert scenario.is_two_clusters
    assert scenario.lines[0].bytes_per_s == 12.5e9
    assert scenario.demand.lengths.high == 131072
    assert scenario.demand.kv.bytes_per_token == 16.875 * 1024
    assert [cluster.instances for cluster in scenario.clusters] == [4, 8]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("high: 128K", "high: 256K", r"ends at 131072 tokens.*reach 262144.*add the point"),
        ("tpot: 25 ms", "tpot: 0 ms", "more than 0"),
        ("output_tokens: 1024", "prefix_hit_rate: 0.5", "output_tokens: the mean answer"),
        ("output_tokens: 1024", "output_tokens: 9\n  prefix_hit_rate: 1.5", "share below 1"),
        ("lognormal:", "histogram: {edges: [1], weights: []}\n    lognormal:", "exactly one"),
        ("sigma: 1.00", "sigma: -1", "sigma > 0"),
        ("ttft: 10 s", "ttft: 10", "no unit"),
        ("mu: 9.90", "mu: .nan", "finite mu"),
        ("sigma: 1.00", "sigma: .nan", "sigma > 0"),
        ("output_tokens: 1024", "output_tokens: .nan", "output_tokens: nan; write 1 or more"),
        ("tpot: 25 ms", "tpot: 25", "no unit"),
    ],
)
def test_a_mistake_is_answered_with_what_to_write(old: str, new: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        parse(changed(old, new))
    assert str(caught.value).startswith("plan.yaml")


def test_prefix_hits_shorten_the_prompts() -> None:
    full = parse(TEXT).demand.lengths
    half = parse(changed("output_tokens: 1024", "output_tokens: 1024\n  prefix_hit_rate: 0.5"))
    assert half.demand.lengths.mean() == pytest.approx(full.mean() / 2)


def test_a_histogram_and_a_model_of_the_catalogue() -> None:
    text = TEXT.replace(
        "lognormal: {mu: 9.90, sigma: 1.00, low: 128, high: 128K}",
        "histogram: {edges: [1K, 8K, 64K], weights: [1, 3]}",
    )
    scenario = parse(
        text.replace(
            "{block_tokens: 64}", "{block_tokens: 64, path: Kimi-Linear-48B-A3B, kv_dtype: fp8}"
        )
    )
    assert scenario.demand.lengths.high == 65536
    assert scenario.demand.kv.bytes_per_token == 8064 / 2


def test_s_kv_must_come_from_somewhere_and_agree() -> None:
    other = changed("profile: paper-1t-h200}", "profile: table3-qwen3-235b-h200}")
    with pytest.raises(ConfigError, match="the profiles do not agree; add 'model: NAME'"):
        parse(other)
    scenario = parse(
        other.replace("{block_tokens: 64}", "{kv_size: {constant: 1 MiB, per_token: 2 KiB}}")
    )
    assert scenario.demand.kv.bytes(1) == 2**20 + 2048


def test_a_trace_brings_lengths_reuse_and_answers(tmp_path: Path) -> None:
    rows = [
        {"timestamp": 0, "input_length": 1500, "output_length": 10, "hash_ids": [1, 2, 3]},
        {"timestamp": 1, "input_length": 1500, "output_length": 30, "hash_ids": [1, 2, 9]},
    ]
    with gzip.open(tmp_path / "t.jsonl.gz", "wt") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)
    text = changed(
        "lengths:\n    lognormal: {mu: 9.90, sigma: 1.00, low: 128, high: 128K}",
        "trace: {file: t.jsonl.gz}",
    ).replace("  output_tokens: 1024\n", "")
    assert parse(text, tmp_path).prefix_hit_rate == 0
    text = text.replace("kind: pd", "kind: pd\n    prefix_cache: unbounded")
    scenario = parse(text, tmp_path)
    assert scenario.demand.lengths.mean() == (1500 + 476) / 2
    assert scenario.demand.output_tokens == 20
    assert scenario.prefix_hit_rate == pytest.approx(1024 / 3000)
    with pytest.raises(ConfigError, match="leave it out"):
        parse(text.replace("workload:", "workload:\n  prefix_hit_rate: 0.1"), tmp_path)


def test_agents_cache_as_many_tokens_as_memory_or_disk_hold() -> None:
    text = """
clusters:
  - name: west
    kind: pd
    prefix_cache: agents
    machines:
      - {name: w1, engines: [{name: d1, role: decode}],
         agent: {name: a1, arena: 64 MiB, plaintext: true}}
      - {name: w2, engines: [{name: d2, role: decode}],
         agent: {name: a2, arena: 64 MiB, plaintext: true,
         cache: {size: 8 MiB, spill: {path: /d, size: 1 GiB}}}}
  - {name: south, kind: pd, prefix_cache: 1M, instances: {count: 1}}
"""
    description = parse_description(text, source="test")
    assert _cache_tokens(description, 1024.0) == (32 << 10) + (1 << 20) + (1 << 20)
    planned = text.replace("prefix_cache: 1M", "prefix_cache: {memory: 1 MiB, disk: 2 MiB}")
    description = parse_description(planned, source="test")
    assert _cache_tokens(description, 1024.0) == (32 << 10) + (1 << 20) + (2 << 10)
