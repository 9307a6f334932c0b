"""Which engines a run has, and in which roles."""

from __future__ import annotations

from pathlib import Path

import pytest

from prfaas.core.deployment import EngineRole
from prfaas.description.experiments import RunConfig, Split
from prfaas.description.file import parse_description
from prfaas.sim.fleet import fleet_of

RUNNING = """
clusters:
  - name: w
    kind: pd
    profile: paper-1t-h20-fit
    agent: {name: a}
    engines:
      - {name: p, role: prefill, max_num_seqs: 99}
      - {name: d1, role: decode, max_num_seqs: 5, kv_tokens: 1M}
      - {name: d2, role: decode, max_num_seqs: 5}
"""


def fleet(**split: Split) -> list[tuple[str, EngineRole]]:
    described = parse_description(RUNNING, source="f")
    engines = fleet_of(described, RunConfig(name="r", instances=split), beside=Path())
    return [(engine.name, engine.role) for engine in engines]


def test_engines_that_run_keep_their_names() -> None:
    assert fleet() == [("p", "prefill"), ("d1", "decode"), ("d2", "decode")]


def test_another_split_changes_the_roles_of_the_last() -> None:
    moved = fleet(w=Split(prefill=2, decode=1))
    assert moved == [("p", "prefill"), ("d2", "prefill"), ("d1", "decode")]


def test_a_smaller_split_leaves_out_and_a_larger_one_copies() -> None:
    assert fleet(w=Split(prefill=1, decode=1)) == [("p", "prefill"), ("d1", "decode")]
    larger = fleet(w=Split(prefill=2, decode=2))
    assert larger == [("p", "prefill"), ("d2-1", "prefill"), ("d1", "decode"), ("d2", "decode")]


def test_what_an_engine_was_given_bounds_it_but_not_beyond_its_profile() -> None:
    described = parse_description(RUNNING, source="f")
    p, d1, d2 = fleet_of(described, RunConfig(name="r"), beside=Path())
    assert [p.max_batch, d1.max_batch, d2.max_batch] == [20, 5, 5]
    assert [d1.kv_tokens, d2.kv_tokens] == [2**20, None]


PLANNED = """
clusters:
  - name: w
    kind: pd
    instances: [{role: prefill, count: 1, profile: p.yaml}, {role: decode, count: 1, PROFILE}]
slo: {ttft: 10 s, tpot: TPOT}
"""
PROFILE = """
name: p
hardware: 1 x GPU
gpus: 1
source: a test
basis: measured
prefill: {points: {1K: 0.5, 8K: 2}}
decode: {points: {1: 0.010, 16: 0.020, 64: 0.050}}
kv: {constant: 0 B, per_token: 1 KiB}
"""


@pytest.mark.parametrize(
    ("tpot", "given", "batch"),
    [("20 ms", "", 16), ("60 ms", "", 64), ("5 ms", "", 64), ("20 ms", ", max_num_seqs: 40", 40)],
)
def test_planned_engines_decode_as_many_at_a_time_as_the_planner_lets_them(
    tmp_path: Path, tpot: str, given: str, batch: int
) -> None:
    (tmp_path / "p.yaml").write_text(PROFILE)
    text = PLANNED.replace("TPOT", tpot).replace("PROFILE", f"profile: p.yaml{given}")
    described = parse_description(text, source="f")
    _, decode = fleet_of(described, RunConfig(name="r"), beside=tmp_path)
    assert decode.max_batch == batch
