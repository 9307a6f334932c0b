"""The conversations of `talks` asked of the simulator: do its agents' caches hit what live ones
do?"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from benchmarks.pool.conversations import Conversations, Histories

from prfaas.description.file import Description
from prfaas.policies.registry import make_policy
from prfaas.sim.build import build_world
from prfaas.sim.simulation import Simulation
from prfaas.workload.requests import Workload

_APART_S = 60.0
"""As in `talks`, one is answered before the next is asked."""


def conversed(conversations: Conversations, *, block_tokens: int, seed: int = 1) -> Workload:
    """The turns, behind the system prompt by itself; what is answered matters only to itself."""
    rng = random.Random(seed)
    names: dict[tuple[int, ...], int] = {}

    def blocks(tokens: list[int]) -> list[int]:
        found, before = [], -1
        for end in range(block_tokens, len(tokens) + 1, block_tokens):
            key = (before, *tokens[end - block_tokens : end])
            before = names.setdefault(key, len(names))
            found.append(before)
        return found

    histories = Histories(conversations.system)
    system = list(conversations.system)
    asked = [(system, 1, system)] if system else []
    for turn in conversations.turns:
        prompt = histories.prompt(turn)
        answer = [rng.randrange(300, 4000) for _ in range(turn.answer_tokens)]
        histories.answered(turn, answer)
        asked.append((prompt, len(answer), [*prompt, *answer][:-1]))
    return Workload(
        [_APART_S * number for number in range(len(asked))],
        [len(prompt) for prompt, _, _ in asked],
        [answer for _, answer, _ in asked],
        [blocks(prompt) for prompt, _, _ in asked],
        block_tokens,
        conversed=[blocks(both) for _, _, both in asked],
    )


def simulate(
    description: Description, conversations: Conversations, *, beside: Path
) -> dict[str, Any]:
    """Hit tokens of the turns, as the simulator has them."""
    block_tokens = description.model.block_tokens
    workload = conversed(conversations, block_tokens=block_tokens)
    (run,) = description.experiments.runs
    world = build_world(description, run, workload, beside=beside)
    simulation = Simulation(world, workload, make_policy(run.scheduler), run.scheduler)
    simulation.run()
    first = 1 if conversations.system else 0
    hits = sum(simulation.recorder.held_tokens[first:])
    return {
        "prompt_tokens": sum(workload.prompts[first:]),
        "hit_tokens": hits,
        "pulls": simulation.pools.pulls,
    }
