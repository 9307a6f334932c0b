"""The simulator's agents' caches hit what live ones hit, on the conversations of `make bench-pool`.

The live figure is that of docs/agent.md, measured with engines of the tiny hybrid model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from benchmarks.pool.conversations import drawn
from benchmarks.pool.simulated import simulate

from prfaas.description.file import parse_description

LIVE_PROMPT_TOKENS, LIVE_HIT_TOKENS = 112_545, 90_880
"""Answers kept, two clusters: also what an unbounded cache would have hit."""
PROFILE = """
name: tiny
hardware: two cores
gpus: 1
source: this test
basis: fit
prefill: {points: {1K: 0.2, 8K: 1.6}}
decode: {points: {1: 0.005, 8: 0.01}}
"""
DEPLOYMENT = """
clusters:
  - name: east
    kind: prfaas
    profile: tiny.yaml
    prefix_cache: agents
    engines: [{name: e0, role: prefill, url: "http://h:1"}]
    agent: {name: ea, arena: 512 MiB, cache: {size: CACHE}, plaintext: true}
  - name: west
    kind: pd
    profile: tiny.yaml
    prefix_cache: agents
    engines: [{name: d0, role: decode, url: "http://h:2", max_num_seqs: 8}]
    agent: {name: wa, arena: 512 MiB, cache: {size: CACHE, answers: ANSWERS}, plaintext: true}
links: [{from: east, to: west, rate: 10 Gbit/s}]
model: {block_tokens: 256, kv_size: {constant: 1 MiB, per_token: 2 KiB}}
experiments: {runs: [{name: pool, scheduler: {policy: threshold, threshold: 1000}}]}
"""


def asked(tmp_path: Path, *, cache: str, answers: bool = True) -> dict[str, Any]:
    (tmp_path / "tiny.yaml").write_text(PROFILE)
    text = DEPLOYMENT.replace("CACHE", cache).replace("ANSWERS", str(answers).lower())
    description = parse_description(text, source="test")
    conversations = drawn(seed=1, sessions=12, turns=3, system=2048, question=512, answer=48)
    return simulate(description, conversations, beside=tmp_path)


def test_the_simulators_pool_hits_what_the_live_one_did(tmp_path: Path) -> None:
    found = asked(tmp_path, cache="256 MiB")
    assert found["prompt_tokens"] == LIVE_PROMPT_TOKENS
    assert found["hit_tokens"] == pytest.approx(LIVE_HIT_TOKENS, rel=0.03)


def test_a_small_cache_hits_less_and_one_that_keeps_no_answers_too(tmp_path: Path) -> None:
    whole = asked(tmp_path, cache="256 MiB")["hit_tokens"]
    assert asked(tmp_path, cache="20 MiB")["hit_tokens"] < 0.85 * whole
    assert asked(tmp_path, cache="256 MiB", answers=False)["hit_tokens"] < whole
