"""What the pool's benchmark asks, and what a cache without bounds would have of it."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.pool.conversations import Histories, Turn, UnboundedCache, drawn, from_trace


def test_a_turn_is_asked_behind_what_was_said_and_answered() -> None:
    asked = drawn(seed=1, sessions=2, turns=2, system=8, question=4, answer=3)
    assert asked == drawn(seed=1, sessions=2, turns=2, system=8, question=4, answer=3)
    assert [turn.session for turn in asked.turns] == [0, 1, 0, 1]
    histories = Histories(asked.system)
    for turn in asked.turns[:2]:
        assert histories.prompt(turn) == [*asked.system, *turn.added]
        histories.answered(turn, [7, 7, 7])
    first, second = asked.turns[0], asked.turns[2]
    expected = [*asked.system, *first.added, 7, 7, 7, *second.added]
    assert histories.prompt(second) == expected


def test_an_unbounded_cache_has_whole_blocks_and_never_the_last_token() -> None:
    cache, tokens = UnboundedCache(4), list(range(10))
    assert cache.hit_tokens(tokens) == 0
    cache.holds(tokens)
    assert cache.hit_tokens(tokens) == 8
    assert cache.hit_tokens(tokens[:8]) == 4
    assert cache.hit_tokens([*tokens[:5], 99, 98, 97]) == 4
    assert cache.hit_tokens([1, *tokens[1:]]) == 0


def test_of_a_trace_conversations_are_asked_and_share_what_it_says(tmp_path: Path) -> None:
    turns = [([0, 5], 1024), ([0, 9], 1024), ([0, 5, 6], 1536), ([0, 5, 6, 7], 2048)]
    lines = [
        {"timestamp": n, "input_length": size, "output_length": 100, "hash_ids": blocks}
        for n, (blocks, size) in enumerate(turns)
    ]
    file = tmp_path / "trace.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    found = from_trace(file, seed=1, requests=10, block=64, longest=1000)
    first, second, third = found.turns  # the second request is nobody's next turn
    assert [len(turn.added) for turn in found.turns] == [128, 192, 256]
    assert list(first.added) == list(second.added[:128])
    assert list(second.added) == list(third.added[:192])
    assert isinstance(first, Turn)
