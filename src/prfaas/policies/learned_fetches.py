"""What it takes to fetch a cached prefix instead of computing it, as was seen.

There are two kinds of ways. An engine *loads* from its agent's host memory; what lies on disk the
agent reads to memory first, which is a way of the agent's. A pair of agents *pulls*: one copies to
the other what it has cached. Each way has a fixed cost and a rate: a line (`fading_line`) over what
the prefix should take by what is known without having seen it, the *guess*: bytes at a tier's
measured or usual rate, or at the rate that the line has now. So what was seen of a pair still holds
when its line becomes slower or faster.

What was seen once is believed for a fifth, twice for a half, and soon wholly: others' work makes a
first fetch look slow. A way that is passed over, because of what was seen, is believed less and
less: it will be tried again.
"""

from __future__ import annotations

from collections.abc import Mapping

from prfaas.core.tiers import Tier
from prfaas.policies.fading_line import FadingLine, Sums, kept_sums

_GUESS = 4.0
"""The guess weighs so much beside the square of how often a way was seen."""
_DOUBT = 0.95
"""What is left of what was seen, each time that the way is passed over because of it."""


def load_way(where: str, tier: Tier) -> str:
    """The name of an engine's load from memory, or an agent's from disk."""
    return f"load {tier} {where}"


def any_load_way(tier: Tier) -> str:
    """The same of all together, for those that were not seen."""
    return f"load {tier}"


def pull_way(sender: str, receiver: str) -> str:
    """The name of a pull, from agent to agent."""
    return f"pull {sender} {receiver}"


class LearnedFetches:
    """Not thread-safe. ``kept``: what a predecessor has learned; what cannot have been learned is
    passed over."""

    def __init__(self, kept: Mapping[str, Sums] | None = None) -> None:
        self._lines: dict[str, FadingLine] = {}
        for way, sums in (kept or {}).items():
            sound = kept_sums(sums, count=5)
            if sound is not None:
                self._lines[way] = FadingLine(sound)

    def seen(self, way: str, guess_s: float, seconds: float) -> None:
        """A fetch that was guessed to take ``guess_s`` took ``seconds``."""
        line = self._lines.setdefault(way, FadingLine())
        line.add(guess_s, line.plausible(guess_s, max(0.0, seconds)))

    def fetch_s(self, guess_s: float, *ways: str) -> float:
        """Seconds, by the guess and by what was seen of the first of ``ways`` that was."""
        line = next((line for way in ways if (line := self._lines.get(way)) is not None), None)
        if line is None:
            return guess_s
        weight = line.sums[0] ** 2
        return (weight * line.at(guess_s) + _GUESS * guess_s) / (weight + _GUESS)

    def passed_over(self, *ways: str) -> None:
        """By the guess alone it would have been taken."""
        for way in ways:
            if (line := self._lines.get(way)) is not None:
                line.sums = tuple(_DOUBT * value for value in line.sums)

    def learned(self) -> dict[str, Sums]:
        """To be kept for a successor."""
        return {way: line.sums for way, line in self._lines.items()}
