"""Conversations to ask: sessions of several turns behind one system prompt, or a trace's requests.

A workload is a list of turns in the order in which they are asked. A turn's prompt is its session's
history, questions and the answers that were really given, and a new question. Sessions take turns:
before one goes on, every other one has been asked, which is what pushes it out of a small cache.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from prfaas.workload.files import read_trace_file
from prfaas.workload.trace import RecordedTrace

IDS = range(300, 4000)
"""Token ids of plain words in the tiny models' vocabulary."""


class Turn(NamedTuple):
    """What is new in a turn of ``session``, and how long its answer gets."""

    session: int
    added: Sequence[int]
    answer_tokens: int


class Conversations(NamedTuple):
    """``system``: how long the prompt is that all of them begin with; 0: they share none."""

    turns: Sequence[Turn]
    system: Sequence[int]
    source: str


@dataclass
class Histories:
    """What each session has said and heard so far."""

    system: Sequence[int]
    _of: dict[int, list[int]] = field(default_factory=dict)

    def prompt(self, turn: Turn) -> list[int]:
        """What is asked now."""
        return [*self._of.setdefault(turn.session, list(self.system)), *turn.added]

    def answered(self, turn: Turn, answer: Sequence[int]) -> None:
        """It was answered with these tokens."""
        self._of[turn.session] += [*turn.added, *answer]


def drawn(
    *, seed: int, sessions: int, turns: int, system: int, question: int, answer: int
) -> Conversations:
    """Questions are between half and one and a half times as long as ``question``."""
    rng = random.Random(seed)
    found = [
        Turn(session, _words(rng, rng.randint(question // 2, question * 3 // 2)), answer)
        for _ in range(turns)
        for session in range(sessions)
    ]
    return Conversations(found, _words(rng, system), f"seed {seed}")


def from_trace(path: Path, *, seed: int, requests: int, block: int, longest: int) -> Conversations:
    """The first conversations of a trace with block hashes (Mooncake's) that have several turns,
    each of its blocks shrunk to ``block`` tokens and each prompt cut to ``longest``: what they
    share stays in proportion. In the order of the trace, ``requests`` in all. The answers that
    later prompts contain are the trace's, not those that are given here. Raises ConfigError where
    it cannot be read."""
    trace = read_trace_file(path)
    if not isinstance(trace, RecordedTrace) or not trace.blocks:
        raise SystemExit(f"{path}: no block hashes; take a trace of Mooncake's form")
    scale = block / trace.block_tokens
    found = []
    for number in _several_turns(trace, requests, longest=int(longest / scale)):
        tokens = min(longest, max(2, round(trace.prompts[number] * scale)))
        ids = [i for name in trace.blocks[number] for i in _block(seed, int(name), block)]
        rest = _block(seed, -1 - number, max(0, tokens - len(ids)))
        answer = max(1, round(trace.outputs[number] * scale))
        found.append(Turn(number, [*ids, *rest][:tokens], min(answer, 64)))
    return Conversations(found, (), f"{path.name}, blocks of {block} tokens")


def _several_turns(trace: RecordedTrace, requests: int, *, longest: int) -> list[int]:
    """Numbers of requests that belong to conversations: those that share more than the first
    block, which all of a service's may, and none of which is longer than ``longest``."""
    of: dict[int, list[int]] = {}
    for number, blocks in enumerate(trace.blocks):
        if len(blocks) > 1:
            of.setdefault(blocks[1], []).append(number)
    chosen: list[int] = []
    for numbers in sorted(of.values()):
        fits = all(trace.prompts[number] <= longest for number in numbers)
        if len(numbers) > 2 and fits and len(chosen) < requests:
            chosen += numbers
    return sorted(chosen)[:requests]


def _words(rng: random.Random, count: int) -> list[int]:
    return rng.choices(IDS, k=count)


def _block(seed: int, name: int, count: int) -> list[int]:
    rng = np.random.default_rng((seed, name % (1 << 63)))
    found: list[int] = rng.integers(IDS.start, IDS.stop, count).tolist()
    return found


class UnboundedCache:
    """What a cache would have that forgets nothing, and could go on from any block's end."""

    def __init__(self, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self._known: set[int] = set()

    def hit_tokens(self, prompt: Sequence[int]) -> int:
        """Of a prompt that is asked now; the last token is always computed."""
        found = 0
        for end, name in self._names(prompt):
            if end >= len(prompt) or name not in self._known:
                break
            found = end
        return found

    def holds(self, tokens: Sequence[int]) -> None:
        """From now on it has all of these."""
        self._known.update(name for _, name in self._names(tokens))

    def _names(self, tokens: Sequence[int]) -> list[tuple[int, int]]:
        size, name, found = self._block_tokens, 0, []
        for end in range(size, len(tokens) + 1, size):
            name = hash((name, *tokens[end - size : end]))
            found.append((end, name))
        return found
