"""Which engines a run has, and in which roles."""

from __future__ import annotations

from pathlib import Path

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
