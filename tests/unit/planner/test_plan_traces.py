"""Trace schemas and the replay of prefix reuse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from prfaas.core.errors import ConfigError
from prfaas.planner.traces import replay_reuse, trace_lengths


def lengths(path: Path, text: str) -> list[float]:
    """The distinct uncached lengths of a short trace, shortest first."""
    path.write_text(text)
    found = trace_lengths(path, cache_tokens=None).uncached
    return sorted(set(found.quantile(np.linspace(0.01, 0.99, 50)).tolist()))


def test_reuse_is_the_longest_cached_prefix_of_whole_blocks() -> None:
    trace = [
        (1024, 1, [1, 2]),
        (1536, 1, [1, 2, 3]),
        (1536, 1, [7, 2, 3]),
        (1024, 1, [1, 2]),
        (600, 1, [1, 9]),
        (0, 1, []),
    ]
    found = replay_reuse(trace, None)
    assert found.uncached.mean() == pytest.approx((1024 + 512 + 1536 + 1 + 88) / 5)
    assert found.hit_rate == pytest.approx(1 - 3161 / 5720)


def test_a_small_cache_forgets_the_least_recently_used() -> None:
    trace = [(512, 1, [1]), (512, 1, [2]), (512, 1, [1])]
    assert replay_reuse(trace, 512).hit_rate == 0
    assert replay_reuse(trace, 1024).uncached.mean() == pytest.approx((512 + 512 + 1) / 3)


def test_every_schema_is_told_by_its_first_line(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    mooncake = {"timestamp": 0, "input_length": 30, "output_length": 4, "hash_ids": [1]}
    serve_gen = {"input_hist": {"10": 1.0, "20": 3.0}, "output_hist": {"7": 1.0}, "rate_600s": []}
    assert lengths(path, json.dumps(mooncake) + "\n") == [30]
    assert lengths(path, json.dumps(serve_gen)) == [10, 20]
    assert lengths(path, "TIMESTAMP,ContextTokens,GeneratedTokens\nx,100,7\ny,0,3\n") == [100]
    assert lengths(path, "Timestamp,Request tokens,Response tokens\n5,40,2\n") == [40]
    assert lengths(path, "num_prefill_tokens,num_decode_tokens\n40.0,2.0\n") == [40]


def test_foreign_empty_and_missing_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    for text, says in (
        ("a,b\n1,2\n", "no known schema"),
        ("ContextTokens,GeneratedTokens\n", "no request"),
        ("ContextTokens,GeneratedTokens\nx,1\n", "not what its first line promises"),
        ('{"input_length": "many"}\n', "not what its first line promises"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=says):
            trace_lengths(path, cache_tokens=None)
    with pytest.raises(ConfigError, match="cannot be read"):
        trace_lengths(tmp_path / "none", cache_tokens=None)
