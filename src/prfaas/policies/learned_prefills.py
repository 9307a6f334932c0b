"""How long prefills take on each engine, learned from those that were seen (`PrefillLearner`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf, isfinite

import numpy as np
from numpy.typing import NDArray

from prfaas.policies.prefill_lines import PrefillLines, Sums
from prfaas.policies.views import PrefillTimes

_MEMORY = 0.99
"""What one observation weighs after the next, whichever engine that is of: about the last hundred
count. So an engine that gets no more work is forgotten, and tried again."""
_FORGOTTEN = 0.1
_LARGEST_WEIGHT = 1e30
"""Before squares of tokens times it would lose digits."""
_FIRST_GUESS_TOKENS_PER_S = 10_000.0
_OPTIMISM = 2.0
"""A cluster that was never seen at work counts as so much faster than the fastest that was."""
_SURE = 5.0
"""From so many observations on an engine can surprise."""
_SURPRISE = 4.0
"""What takes so many times what was expected counts as that: a machine that slept, a kernel that
was compiled. Half a dozen chunks of others in the same steps stay below."""
_CONVINCED = 3
"""Surprises of one engine in a row: it has become slow, and the next counts in full."""
_KEPT = 20.0
"""What was learned by a predecessor counts as so many observations at most: engines may have
changed meanwhile, and then a few prefills must show it."""
_SEEDED = 1.0
"""The same of each point of a profile."""


class LearnedPrefills:
    """How long prefills take, learned from those that were seen. Not thread-safe.

    Theory of operation. T_prefill(n) = a + b n is fitted to each engine's recent prefills by least
    squares, from sums that fade. Prompts that share a step end together, one of them in no time at
    all; the sums still hold the true time for the true number of tokens. An engine not seen at work
    counts as its cluster's others; a cluster not seen at work counts as faster than any that was,
    so that it gets work and is seen. One that was given no work for a while counts more and more as
    if it had not been seen, until it is given some.

    What is asked for each engine at each arrival must not look at all engines, so sums are kept by
    engine and by cluster, and rather than let all of them fade the next observation weighs more.

    Args:
        cluster_of: engine -> cluster.
    """

    def __init__(self, cluster_of: Mapping[str, str]) -> None:
        self._cluster_of: Mapping[str, str] = {}
        self._seen: dict[str, Sums] = {}
        self._by_cluster: dict[str, Sums] = {}
        self._surprises: dict[str, int] = {}
        self._lines = PrefillLines({})
        self._left: dict[str, float] = {}
        """Engine -> the share that is to be left, once more is seen of it, of what was seen before:
        it had no work for a while. Until then all of it counts, or many would be sent to try."""
        self._next_weight = 1.0
        self._soonest: dict[int, float] = {}
        """Tokens -> what the fastest cluster that was seen takes; until the next observation."""
        self.engines_are(cluster_of)

    def engines_are(self, cluster_of: Mapping[str, str]) -> None:
        """Engines joined or left: these are all, with their clusters. What was learned of those
        that stay is kept."""
        self._cluster_of = cluster_of
        self._soonest.clear()
        self._seen = {engine: self._seen.get(engine) or Sums() for engine in cluster_of}
        self._surprises = {engine: self._surprises.get(engine, 0) for engine in cluster_of}
        self._left = {engine: self._left.get(engine, 1.0) for engine in cluster_of}
        self._by_cluster = {cluster: Sums() for cluster in cluster_of.values()}
        for engine, cluster in cluster_of.items():
            self._by_cluster[cluster].join(self._seen[engine])
        self._lines = PrefillLines(cluster_of, self._lines)
        for engine in cluster_of:
            self._draw(engine)

    def seed(self, engine: str, points: Iterable[tuple[float, float]]) -> None:
        """Begin with a profile: (uncached tokens, seconds) each. It fades as anything else."""
        for n, t in points:
            for sums in (self._seen[engine], self._by_cluster[self._cluster_of[engine]]):
                sums.add(_SEEDED * self._next_weight, n, t)
        self._draw(engine)

    def learned(self) -> dict[str, tuple[float, ...]]:
        """See `PrefillLearner`: sums by engine, of those that were seen, in observations."""
        unit = self._next_weight * _MEMORY
        return {
            name: sums.in_units(unit)
            for name, sums in self._seen.items()
            if sums.weight >= _FORGOTTEN * unit
        }

    def restore(self, kept: Mapping[str, tuple[float, ...]]) -> None:
        """Begin with what a predecessor has learned. Engines that are not here, and what cannot
        have been learned, are passed over."""
        for name, values in kept.items():
            sound = len(values) == 5 and all(isfinite(value) and value > 0 for value in values)
            if name in self._seen and sound:
                unit = self._next_weight * min(1.0, _KEPT / values[0])
                for sums in (self._seen[name], self._by_cluster[self._cluster_of[name]]):
                    sums.join(Sums.of(values, unit))
                self._draw(name)

    def prefill_times(self, engines: Sequence[str]) -> PrefillTimes:
        """See `Costs`."""
        lines: PrefillLines | None = None
        own = peers = np.zeros(0, np.intp)

        def times(uncached: NDArray[np.float64]) -> NDArray[np.float64]:
            nonlocal lines, own, peers
            if lines is not self._lines:
                lines = self._lines
                own = np.array([lines.engine[name] for name in engines], np.intp)
                of = [lines.cluster[self._cluster_of[name]] for name in engines]
                peers = np.array(of, np.intp)
            forgotten = _FORGOTTEN * self._next_weight * _MEMORY
            seen = lines.weight[own] >= forgotten
            rows = np.where(seen, own, peers)
            seconds = lines.prefill_s(rows, uncached)
            strange = np.flatnonzero(lines.weight[rows] < forgotten)
            if strange.size:
                seconds[strange] = self._unseen_times(uncached[strange], forgotten)
            idle = np.flatnonzero(seen & lines.idle(own))
            if idle.size:
                seconds[idle] = self._idle_times(own[idle], peers[idle], uncached[idle])
            return seconds

        return times

    def prefill_s(self, engine: str, uncached_tokens: int) -> float:
        """Seconds that ``engine`` alone takes to prefill so many uncached tokens."""
        forgotten = _FORGOTTEN * self._next_weight * _MEMORY
        own = self._seen[engine]
        if own.weight >= forgotten:
            row, cluster = self._lines.engine[engine], self._lines.cluster[self._cluster_of[engine]]
            if not self._lines.idle(row):
                return own.prefill_s(uncached_tokens)
            uncached = np.array([float(uncached_tokens)])
            return self._idle_times(np.array([row]), np.array([cluster]), uncached).item()
        peers = self._by_cluster[self._cluster_of[engine]]
        if peers.weight >= forgotten:
            return peers.prefill_s(uncached_tokens)
        return self._unseen_s(uncached_tokens, forgotten)

    def _idle_times(
        self, own: NDArray[np.intp], peers: NDArray[np.intp], uncached: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Of engines that were seen, and given no work for a while: these are their rows and their
        clusters'. What has faded of an engine one observation of its cluster's others stands for,
        and what has faded of the cluster, one of a cluster never seen."""
        lines, unit = self._lines, self._next_weight * _MEMORY
        left, peers_left = lines.left(own), lines.left(peers)
        seconds, weight = lines.peers_s(own, peers, left, uncached)
        idle = np.flatnonzero(peers_left < 1)
        if idle.size:
            unseen = self._unseen_times(uncached[idle], _FORGOTTEN * unit)
            counts = weight[idle] / unit
            seconds[idle] = _between(seconds[idle], unseen, counts, peers_left[idle])
        return _between(lines.prefill_s(own, uncached), seconds, lines.weight[own] / unit, left)

    def _unseen_times(self, uncached: NDArray[np.float64], forgotten: float) -> NDArray[np.float64]:
        tokens, where = np.unique(uncached, return_inverse=True)
        of_each = [self._unseen_s(int(count), forgotten) for count in tokens.tolist()]
        found: NDArray[np.float64] = np.array(of_each)[where]
        return found

    def _unseen_s(self, uncached_tokens: int, forgotten: float) -> float:
        """Of a cluster that was never seen at work, or that is forgotten."""
        soonest = self._soonest.get(uncached_tokens)
        if soonest is None:
            known = [s for s in self._by_cluster.values() if s.weight >= forgotten]
            if not known:
                return uncached_tokens / _FIRST_GUESS_TOKENS_PER_S
            soonest = min(sums.prefill_s(uncached_tokens) for sums in known)
            self._soonest[uncached_tokens] = soonest
        return soonest / _OPTIMISM

    def knows(self, engine: str) -> bool:
        """Whether it, or one of its cluster, was seen at work and is not forgotten."""
        forgotten = _FORGOTTEN * self._next_weight * _MEMORY
        return self._by_cluster[self._cluster_of[engine]].weight >= forgotten

    def prefill_given(self, engine: str, now: float) -> None:
        """``engine`` is given a prefill: it and its cluster are at work again."""
        left = self._lines.give(engine, self._cluster_of[engine], now)
        self._left[engine] = min(left, self._left[engine])

    def prefill_seen(self, engine: str, uncached_tokens: int, seconds: float) -> None:
        """``engine`` was at work on a prefill for ``seconds``."""
        left, own = self._left[engine], self._seen[engine]
        if left < 1:
            self._by_cluster[self._cluster_of[engine]].join(own, left - 1)
            own.scale(left)
            self._left[engine] = 1.0
        seconds = self._plausible(engine, uncached_tokens, seconds)
        self._soonest.clear()
        for sums in (self._seen[engine], self._by_cluster[self._cluster_of[engine]]):
            sums.add(self._next_weight, float(uncached_tokens), seconds)
        self._draw(engine)
        self._next_weight /= _MEMORY
        if self._next_weight > _LARGEST_WEIGHT:
            for sums in (*self._seen.values(), *self._by_cluster.values()):
                sums.scale(1 / self._next_weight)
            self._lines.scale(1 / self._next_weight)
            self._next_weight = 1.0

    def _draw(self, engine: str) -> None:
        """Put what is known of it and of its cluster where all are looked at together."""
        cluster = self._cluster_of[engine]
        for row, sums in (
            (self._lines.engine[engine], self._seen[engine]),
            (self._lines.cluster[cluster], self._by_cluster[cluster]),
        ):
            if sums.weight:
                self._lines.put(row, sums)

    def _plausible(self, engine: str, tokens: int, seconds: float) -> float:
        own = self._seen[engine]
        sure = own.weight >= _SURE * self._next_weight * _MEMORY
        most = _SURPRISE * own.prefill_s(tokens) if sure else inf
        if seconds <= most:
            self._surprises[engine] = 0
            return seconds
        self._surprises[engine] += 1
        return seconds if self._surprises[engine] > _CONVINCED else most


def _between(
    seen_s: NDArray[np.float64],
    hoped_s: NDArray[np.float64],
    counts: NDArray[np.float64],
    left: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Seconds, where so many observations have faded to a share: one of ``hoped_s`` makes up."""
    weight, other = counts * left, 1 - left
    found: NDArray[np.float64] = (weight * seen_s + other * hoped_s) / (weight + other)
    return found
