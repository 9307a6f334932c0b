"""When requests arrive.

Arrival processes, all with the same mean rate: ``uniform`` (evenly spaced), ``poisson``, ``bursty``
(gamma gaps with a coefficient of variation above 1) and ``diurnal`` (Poisson whose rate swings by a
sine wave). Everything is drawn from one seeded generator that is passed in.
"""

from __future__ import annotations

from math import inf
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from prfaas.core.errors import ConfigError

Process = Literal["uniform", "poisson", "bursty", "diurnal"]
Times = NDArray[np.float64]
_SPAN_S = 600.0
"""How long each published rate holds (ServeGen)."""
_RATES, _VARIATIONS, _PERIODS_S = (1e-4, 1e6), (1e-2, 1e3), (1.0, 1e9)
"""What is simulated second by second meanwhile comes to an end."""


class Arrivals(msgspec.Struct, frozen=True):
    """``variation``: coefficient of variation of the gaps (bursty). ``swing``: share of the rate
    that comes and goes within ``period_s`` (diurnal).

    Raises ConfigError for numbers that describe no arrivals.
    """

    process: Process
    rate_per_s: float
    variation: float = 4.0
    swing: float = 0.5
    period_s: float = 86400.0

    def __post_init__(self) -> None:
        for name, value, (least, most) in (
            ("rate", self.rate_per_s, _RATES),
            ("variation", self.variation, _VARIATIONS),
            ("period", self.period_s, _PERIODS_S),
        ):
            if not 0 < value < inf:
                raise ConfigError(f"{name} {value:g}: write more than 0")
            if not least <= value <= most:
                raise ConfigError(f"{name} {value:g}: write {least:g} to {most:g}")
        if not 0 <= self.swing < 1:
            raise ConfigError(f"swing {self.swing:g}: write a share, 0 to below 1")

    def times(self, count: int, rng: np.random.Generator) -> Times:
        """``count`` arrival times, from 0 on."""
        mean_gap = 1 / self.rate_per_s
        if self.process == "uniform":
            return np.arange(count, dtype=np.float64) * mean_gap
        if self.process == "bursty":
            shape = 1 / self.variation**2
            return np.cumsum(rng.gamma(shape, mean_gap / shape, count))
        times = np.cumsum(rng.exponential(mean_gap, count))
        return self._warped(times) if self.process == "diurnal" else times

    def _warped(self, times: Times) -> Times:
        """Map unit-rate time through the inverse of the rate's integral."""
        omega = 2 * np.pi / self.period_s
        grid = np.linspace(
            0, times[-1] * 1.01 + self.period_s, max(1024, 64 * _periods(self, times))
        )
        integral = grid + self.swing / omega * (1 - np.cos(omega * grid))
        return np.asarray(np.interp(times, integral, grid))


def _periods(arrivals: Arrivals, times: Times) -> int:
    return int(times[-1] / arrivals.period_s) + 2


def following(rates: list[tuple[float, float]], count: int, rng: np.random.Generator) -> Times:
    """At most ``count`` times in s, from 0 on, of a Poisson process whose rate changes.

    Args:
        rates: (start in s, requests per second) of successive spans of 600 s, at least one.
    """
    starts = np.array([at - rates[0][0] for at, _ in rates])
    expected = np.cumsum([rate * _SPAN_S for _, rate in rates])
    unit = np.cumsum(rng.exponential(1.0, count))
    unit = unit[unit < expected[-1]]
    # By span, not by interpolation over all: between two spans there may be a gap.
    span = np.searchsorted(expected, unit, side="right")
    before = np.concatenate(([0.0], expected))[span]
    rate = np.array([rate for _, rate in rates])[span]
    return np.asarray(starts[span] + (unit - before) / rate)
