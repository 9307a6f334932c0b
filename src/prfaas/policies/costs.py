"""Estimates of prefill time and KV size: from profiles, or learned from the prefills seen.

`ProfileCosts` and `LearnedCosts` are read (`Costs`); `LearnedPrefills` is what learns
(`PrefillLearner`) and what `LearnedCosts` reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import add
from typing import NamedTuple

_MEMORY = 0.99
"""What one observation weighs after the next, whichever engine that is of: about the last hundred
count. So an engine that gets no more work is forgotten, and tried again."""
_FORGOTTEN = 0.1
_FIRST_GUESS_TOKENS_PER_S = 10_000.0
_OPTIMISM = 2.0
"""A cluster that was never seen at work counts as so much faster than the fastest that was."""


class ProfileCosts:
    """Estimates from measured profiles.

    ``prefill`` maps engine names to T_prefill(uncached tokens) in seconds; ``kv`` is S_kv(tokens)
    in bytes. A hand-off from token a on costs S_kv(b) - S_kv(a) and the constant state S_kv(0).
    """

    def __init__(
        self, prefill: Mapping[str, Callable[[float], float]], kv: Callable[[float], float]
    ) -> None:
        self._prefill = prefill
        self._kv = kv

    def prefill_s(self, engine: str, uncached_tokens: int) -> float:
        """Seconds, as the engine's profile says."""
        return self._prefill[engine](uncached_tokens)

    def kv_bytes(self, from_token: int, to_token: int) -> float:
        """Bytes of a hand-off, as the profile says."""
        if from_token:
            return self._kv(to_token) - self._kv(from_token) + self._kv(0)
        return self._kv(to_token)


class LearnedPrefills:
    """How long prefills take, learned from those that were seen. Not thread-safe.

    Theory of operation. T_prefill(n) = a + b n is fitted to each engine's recent prefills by least
    squares, from sums that fade. Prompts that share a step end together, one of them in no time at
    all; the sums still hold the true time for the true number of tokens. An engine not seen at work
    counts as its cluster's others; a cluster not seen at work counts as faster than any that was,
    so that it gets work and is seen.

    Args:
        cluster_of: engine -> cluster.
    """

    def __init__(self, cluster_of: Mapping[str, str]) -> None:
        self._seen: dict[str, _Sums] = {}
        self.engines_are(cluster_of)

    def engines_are(self, cluster_of: Mapping[str, str]) -> None:
        """Engines joined or left: these are all, with their clusters. What was learned of those
        that stay is kept."""
        self._seen = {engine: self._seen.get(engine, _Sums()) for engine in cluster_of}
        self._peers = {
            engine: [peer for peer, other in cluster_of.items() if other == cluster]
            for engine, cluster in cluster_of.items()
        }

    def prefill_s(self, engine: str, uncached_tokens: int) -> float:
        """Seconds that ``engine`` alone takes to prefill so many uncached tokens."""
        own = self._seen[engine]
        if own.known:
            return own.prefill_s(uncached_tokens)
        columns = zip(*[self._seen[peer] for peer in self._peers[engine]], strict=True)
        peers = _Sums(*map(sum, columns))
        if peers.known:
            return peers.prefill_s(uncached_tokens)
        others = [s.prefill_s(uncached_tokens) for s in self._seen.values() if s.known]
        if others:
            return min(others) / _OPTIMISM
        return uncached_tokens / _FIRST_GUESS_TOKENS_PER_S

    def prefill_seen(self, engine: str, uncached_tokens: int, seconds: float) -> None:
        """``engine`` was at work on a prefill for ``seconds``."""
        for name, sums in self._seen.items():
            self._seen[name] = _Sums(*[_MEMORY * value for value in sums])
        n, t = float(uncached_tokens), seconds
        new = (1.0, n, t, n * n, n * t)
        self._seen[engine] = _Sums(*map(add, self._seen[engine], new))


class LearnedCosts:
    """Costs where there are no profiles.

    Args:
        prefills: what was learned so far; it goes on learning.
        kv_bytes: bytes of a hand-off of tokens [from, to).
    """

    def __init__(self, prefills: LearnedPrefills, kv_bytes: Callable[[int, int], float]) -> None:
        self._prefills = prefills
        self._kv_bytes = kv_bytes

    def prefill_s(self, engine: str, uncached_tokens: int) -> float:
        """Seconds that ``engine`` alone takes, by what was seen."""
        return self._prefills.prefill_s(engine, uncached_tokens)

    def kv_bytes(self, from_token: int, to_token: int) -> float:
        """Bytes of a hand-off, as the engines' layouts say."""
        return self._kv_bytes(from_token, to_token)


class _Sums(NamedTuple):
    """Over prefills of n uncached tokens in t seconds, each with its weight."""

    weight: float = 0.0
    n: float = 0.0
    t: float = 0.0
    nn: float = 0.0
    nt: float = 0.0

    @property
    def known(self) -> bool:
        return self.weight >= _FORGOTTEN

    def prefill_s(self, tokens: int) -> float:
        """a + b ``tokens`` of the least squares line; through the origin where that has no sense
        (one length only, or the shorter took longer)."""
        spread = self.weight * self.nn - self.n * self.n
        if spread > 1e-6 * self.n * self.n:
            slope = (self.weight * self.nt - self.n * self.t) / spread
            offset = (self.t - slope * self.n) / self.weight
            if slope > 0 and offset >= 0:
                return offset + slope * tokens
        return self.t / self.n * tokens
