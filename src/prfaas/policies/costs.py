"""Estimates of prefill time and KV size (`Costs`): from profiles, or learned from what was seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from prfaas.policies.learned_loads import LearnedLoads
from prfaas.policies.learned_prefills import LearnedPrefills
from prfaas.policies.learned_steps import LearnedSteps
from prfaas.policies.views import PrefillTimes


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

    def prefill_times(self, engines: Sequence[str]) -> PrefillTimes:
        """See `Costs`."""
        places: dict[Callable[[float], float], list[int]] = {}
        for place, engine in enumerate(engines):
            places.setdefault(self._prefill[engine], []).append(place)
        alike = [(profile, np.array(at, np.intp)) for profile, at in places.items()]

        def times(uncached: NDArray[np.float64]) -> NDArray[np.float64]:
            seconds = np.empty(len(engines))
            for profile, at in alike:
                lengths = uncached[at]
                if (lengths == lengths[0]).all():  # As it mostly is: few engines hold a prefix.
                    seconds[at] = profile(int(lengths[0]))
                else:
                    each, which = np.unique(lengths, return_inverse=True)
                    seconds[at] = np.array([profile(int(n)) for n in each.tolist()])[which]
            return seconds

        return times

    def alike(self, engine: str) -> object:
        """Engines of one profile."""
        return self._prefill[engine]

    def knows(self, engine: str) -> bool:
        """Of all it has a profile of."""
        return engine in self._prefill

    def load_s(self, engine: str, kv_bytes: float) -> float:
        """Profiles say nothing of it."""
        del engine, kv_bytes
        return 0.0

    def answer_s(self, engine: str, batch: float) -> float:
        """Profiles do not know how long answers are."""
        del engine, batch
        return 0.0

    def kv_bytes(self, from_token: int, to_token: int) -> float:
        """Bytes of a hand-off, as the profile says."""
        if from_token:
            return self._kv(to_token) - self._kv(from_token) + self._kv(0)
        return self._kv(to_token)


class LearnedCosts:
    """Costs where there are no profiles.

    Args:
        prefills: what was learned so far; it goes on learning.
        kv_bytes: bytes of a hand-off of tokens [from, to).
        loads, steps: what is learned of them; None: nothing is.
    """

    def __init__(
        self,
        prefills: LearnedPrefills,
        kv_bytes: Callable[[int, int], float],
        loads: LearnedLoads | None = None,
        steps: LearnedSteps | None = None,
    ) -> None:
        self._prefills = prefills
        self._kv_bytes = kv_bytes
        self._loads = loads
        self._steps = steps

    def prefill_s(self, engine: str, uncached_tokens: int) -> float:
        """Seconds that ``engine`` alone takes, by what was seen."""
        return self._prefills.prefill_s(engine, uncached_tokens)

    def prefill_times(self, engines: Sequence[str]) -> PrefillTimes:
        """See `Costs`."""
        return self._prefills.prefill_times(engines)

    def alike(self, engine: str) -> object:
        """Each engine is what it was seen to be."""
        del engine
        return None

    def knows(self, engine: str) -> bool:
        """Whether it, or one of its cluster, was seen at work."""
        return self._prefills.knows(engine)

    def kv_bytes(self, from_token: int, to_token: int) -> float:
        """Bytes of a hand-off, as the engines' layouts say."""
        return self._kv_bytes(from_token, to_token)

    def load_s(self, engine: str, kv_bytes: float) -> float:
        """See `Costs`."""
        return 0.0 if self._loads is None else self._loads.load_s(engine, kv_bytes)

    def answer_s(self, engine: str, batch: float) -> float:
        """See `Costs`."""
        return 0.0 if self._steps is None else self._steps.answer_s(engine, batch)
