"""The replay of prefix reuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prfaas.workload.files import read_trace_file
from prfaas.workload.reuse import replay_reuse, trace_lengths
from prfaas.workload.trace import RecordedTrace


def recorded(*requests: tuple[int, list[int]]) -> RecordedTrace:
    return RecordedTrace(
        arrivals=None,
        prompts=[prompt for prompt, _ in requests],
        outputs=[3] * len(requests),
        blocks=[blocks for _, blocks in requests],
    )


def test_reuse_is_the_longest_cached_prefix_of_whole_blocks() -> None:
    found = replay_reuse(
        recorded((1024, [1, 2]), (1536, [1, 2, 3]), (1536, [7, 2, 3]), (1024, [1, 2]), (600, [1])),
        None,
    )
    assert found.uncached.mean() == pytest.approx((1024 + 512 + 1536 + 1 + 88) / 5)
    assert found.hit_rate == pytest.approx(1 - 3161 / 5720)
    assert found.mean_output_tokens == 3


def test_a_small_cache_forgets_the_least_recently_used() -> None:
    trace = recorded((512, [1]), (512, [2]), (512, [1]))
    assert replay_reuse(trace, 512).hit_rate == 0
    assert replay_reuse(trace, 1024).uncached.mean() == pytest.approx((512 + 512 + 1) / 3)


def test_what_is_evicted_is_the_end_of_an_old_prompt_never_its_beginning() -> None:
    """Blocks are found from the first on: a beginning that is gone makes its rest worthless."""
    trace = recorded((1536, [1, 2, 3]), (512, [9]), (1536, [1, 2, 3]))
    assert replay_reuse(trace, 1536).uncached.mean() == pytest.approx((1536 + 512 + 512) / 3)


def test_traces_without_prefixes_count_whole_prompts(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text("num_prefill_tokens,num_decode_tokens\n40,2\n60,4\n")
    found = trace_lengths(read_trace_file(path), cache_tokens=512)
    assert (found.uncached.mean(), found.hit_rate, found.mean_output_tokens) == (50, 0, 3)
    path.write_text(json.dumps({"input_hist": {"10": 1, "20": 3}, "output_hist": {"7": 1}}))
    found = trace_lengths(read_trace_file(path), cache_tokens=None)
    assert (found.uncached.mean(), found.mean_output_tokens) == (17.5, 7)
