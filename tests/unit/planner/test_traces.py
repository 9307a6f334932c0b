"""Trace formats and the replay of prefix reuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from prfaas.core.errors import ConfigError
from prfaas.planner.traces import TracedRequest, read_trace, replay_reuse


def test_reuse_is_the_longest_cached_prefix_of_whole_blocks() -> None:
    trace = [
        TracedRequest(1024, 1, (1, 2)),
        TracedRequest(1536, 1, (1, 2, 3)),
        TracedRequest(1536, 1, (7, 2, 3)),
        TracedRequest(1024, 1, (1, 2)),
    ]
    reuse = replay_reuse(trace, None)
    assert reuse.uncached_tokens == [1024, 512, 1536, 1]
    assert reuse.hit_rate == pytest.approx(1 - 3073 / 5120)


def test_a_small_cache_forgets_the_least_recently_used() -> None:
    trace = [TracedRequest(512, 1, (1,)), TracedRequest(512, 1, (2,)), TracedRequest(512, 1, (1,))]
    assert replay_reuse(trace, 512).uncached_tokens == [512, 512, 512]
    assert replay_reuse(trace, 1024).uncached_tokens == [512, 512, 1]


def test_tables_of_azure_and_burstgpt(tmp_path: Path) -> None:
    azure = tmp_path / "azure.csv"
    azure.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\nx,100,7\ny,0,3\n")
    assert read_trace(azure, "azure") == [TracedRequest(100, 7)]
    burst = tmp_path / "burst.csv"
    burst.write_text("Timestamp,Model,Request tokens,Response tokens,Total tokens\n5,m,40,2,42\n")
    assert read_trace(burst, "burstgpt") == [TracedRequest(40, 2)]


def test_foreign_empty_and_missing_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match="no azure trace"):
        read_trace(path, "azure")
    with pytest.raises(ConfigError, match="no mooncake trace"):
        read_trace(path, "mooncake")
    path.write_text("")
    with pytest.raises(ConfigError, match="no request"):
        read_trace(path, "mooncake")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_trace(tmp_path / "none", "mooncake")
