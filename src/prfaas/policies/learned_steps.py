"""How long a decode step takes by the size of the batch, and how long answers are, as was seen.

A step reads the weights once and every sequence's KV cache: a line over the batch. Together with
the length of the usual answer it says how long a slot is held, also where none was given back yet:
after a start the first thing that a gateway would else not know. An engine that was never seen
counts as all that were. What is seen fades; outliers count as a few times what was expected
(`fading_line`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prfaas.policies.fading_line import FadingLine, Sums, faded, kept_sums

_ALL = ""
"""Stands for every engine."""


class _Engine:
    """``tokens``: of an answer; 0: none was seen."""

    def __init__(self, line: FadingLine, tokens: float = 0.0) -> None:
        self.line, self.tokens = line, tokens

    def add(self, batch: float, step_s: float, tokens: int) -> None:
        self.line.add(batch, step_s)
        self.tokens = faded(self.tokens, tokens) if self.tokens else float(tokens)


class LearnedSteps:
    """Not thread-safe. ``kept``: what a predecessor has learned: the sums of a line (`fading_line`)
    over sequences and seconds, and the tokens of the usual answer, by engine; what cannot have been
    learned is passed over."""

    def __init__(self, kept: Mapping[str, Sums] | None = None) -> None:
        self._engines: dict[str, _Engine] = {}
        for name, values in (kept or {}).items():
            sound = kept_sums(values, count=6)
            if sound is not None:
                self._engines[name] = _Engine(FadingLine(sound[:5]), values[5])

    def seed(self, engine: str, points: Iterable[tuple[float, float]]) -> None:
        """Begin with a profile: (sequences, seconds) each. Where more is known it says nothing."""
        if engine not in self._engines:
            line = FadingLine()
            for batch, step_s in points:
                line.add(batch, step_s)
            if line.sums[0]:
                self._engines[engine] = _Engine(line)

    def seen(self, engine: str, batch: float, step_s: float, tokens: int) -> None:
        """An answer of so many tokens is complete; in a batch of so many sequences, on average,
        each token after the first took so long."""
        own = self._engines.setdefault(engine, _Engine(FadingLine()))
        step_s = own.line.plausible(batch, step_s)
        own.add(batch, step_s, tokens)
        self._engines.setdefault(_ALL, _Engine(FadingLine())).add(batch, step_s, tokens)

    def step_s(self, engine: str, batch: float) -> float:
        """Seconds; 0 where nothing is known."""
        known = self._engines.get(engine) or self._engines.get(_ALL)
        return 0.0 if known is None else known.line.at(batch)

    def answer_s(self, engine: str, batch: float) -> float:
        """Seconds that the usual answer holds a slot; 0 where nothing is known."""
        known = self._engines.get(engine) or self._engines.get(_ALL)
        usual = self._engines.get(_ALL)
        if known is None or not (tokens := known.tokens or (usual.tokens if usual else 0.0)):
            return 0.0
        return tokens * known.line.at(batch)

    def learned(self) -> dict[str, Sums]:
        """To be kept for a successor."""
        return {name: (*engine.line.sums, engine.tokens) for name, engine in self._engines.items()}
