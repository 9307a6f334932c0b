"""A trace of drawn conversations: turns that go on from answers, behind a few system prompts."""

from __future__ import annotations

import random
from itertools import count

from prfaas.workload.trace import RecordedTrace


def conversation_trace(
    sessions: int, *, rate: float, seed: int = 1, block_tokens: int = 512
) -> RecordedTrace:
    """Some four turns a session; ``rate``: requests per second, about. A turn comes well after the
    answer before it. The same arguments draw the same."""
    rng, fresh = random.Random(seed), count()
    systems = [[next(fresh) for _ in range(8)] for _ in range(3)]
    asked: list[tuple[float, int, int, list[int]]] = []
    for _ in range(sessions):
        at, held = rng.uniform(0, sessions * 4 / rate), list(rng.choice(systems))
        for _ in range(rng.randint(1, 7)):
            held = held + [next(fresh) for _ in range(max(1, int(rng.lognormvariate(2.2, 1.0))))]
            answer = rng.randint(50, 600)
            asked.append((at, len(held) * block_tokens + rng.randrange(block_tokens), answer, held))
            held = held + [next(fresh) for _ in range(answer // block_tokens)]
            at += 10 + 0.025 * answer + rng.expovariate(1 / 60)
    asked.sort()
    return RecordedTrace(
        arrivals=[at - asked[0][0] for at, _, _, _ in asked],
        prompts=[prompt for _, prompt, _, _ in asked],
        outputs=[answer for _, _, answer, _ in asked],
        blocks=[blocks for _, _, _, blocks in asked],
        block_tokens=block_tokens,
    ).clipped(128 * 1024)
