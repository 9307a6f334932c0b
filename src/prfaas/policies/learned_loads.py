"""How long a decode engine takes to its first token once a hand-off is there, as was seen.

The KV cache is read into the engine's memory, its tail is computed, and a step ends: a line over
the bytes of the hand-off. An engine that was never seen counts as all that were. What is seen
fades; one load that took many times longer than expected counts as a few times, unless it goes on
like that (`fading_line`).
"""

from __future__ import annotations

from collections.abc import Mapping

from prfaas.policies.fading_line import FadingLine, Sums, kept_sums

_ALL = ""
"""Stands for every engine."""


class LearnedLoads:
    """Not thread-safe. ``kept``: what a predecessor has learned; what cannot have been learned is
    passed over."""

    def __init__(self, kept: Mapping[str, Sums] | None = None) -> None:
        self._lines: dict[str, FadingLine] = {}
        for name, sums in (kept or {}).items():
            sound = kept_sums(sums, count=5)
            if sound is not None:
                self._lines[name] = FadingLine(sound)

    def seen(self, engine: str, kv_bytes: float, seconds: float) -> None:
        """A hand-off of so many bytes was there, and so much later the first token."""
        own = self._lines.setdefault(engine, FadingLine())
        seconds = own.plausible(kv_bytes, seconds)
        own.add(kv_bytes, seconds)
        self._lines.setdefault(_ALL, FadingLine()).add(kv_bytes, seconds)

    def load_s(self, engine: str, kv_bytes: float) -> float:
        """Seconds; 0 where none was ever seen."""
        line = self._lines.get(engine) or self._lines.get(_ALL)
        return 0.0 if line is None else line.at(kv_bytes)

    def learned(self) -> dict[str, Sums]:
        """To be kept for a successor."""
        return {name: line.sums for name, line in self._lines.items()}
