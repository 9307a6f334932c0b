"""The highest rate that a deployment sustains, by bisection.

The rates to try follow from whether those before met the SLO. Whoever simulates them (`Rates`) is
also told which may be asked for next, so that idle cores can be ahead; what is found is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isnan
from pathlib import Path
from typing import Protocol

import msgspec

from prfaas.core.errors import ConfigError
from prfaas.description.experiments import RunConfig
from prfaas.description.file import Description
from prfaas.sim.experiment import simulate
from prfaas.sim.summary import Summary, summarise
from prfaas.workload.requests import Workload

ATTAINMENT = 0.9
"""Share of the requests that must meet the SLO, one by one, for a rate to count as sustained."""
PRECISION = 0.01
_STEP = 1.5
"""By which factor rates are tried until one meets the SLO and the next does not."""
_FURTHEST = 1000
_AHEAD = 4
"""So many further steps of the search for a bracket are told ahead."""


class SweepPoint(msgspec.Struct, frozen=True):
    """One rate tried: whether ``slo_share`` of the requests met the SLO."""

    rate_req_per_s: float
    slo_share: float
    met: bool


class Sweep(msgspec.Struct, frozen=True):
    """``best_req_per_s``: the highest rate found that meets the SLO; 0 if none did."""

    name: str
    best_req_per_s: float
    best: Summary | None
    points: tuple[SweepPoint, ...]


class Rates(Protocol):
    """Simulates one run at any rate."""

    def at(self, rate: float) -> Summary:
        """At so many requests per second."""

    def expect(self, rates: Sequence[float]) -> None:
        """These may be asked for next, the likeliest first; no others of those told before."""


def simulate_rate(
    scenario: Description, run: RunConfig, workload: Workload, rate: float, *, beside: Path
) -> Summary:
    """The same requests, faster or slower. Past some time, a rate this high is not sustained: the
    run is cut short, and who is left has lost."""
    faster = workload.sped_up(rate / workload.rate)
    until = faster.arrivals[-1] * 1.2 + 600.0
    simulation = simulate(scenario, run, faster, beside=beside, until=until)
    return summarise(run.name, simulation, scenario.slo)


class InTurn:
    """Simulates `Rates` one after the other."""

    def __init__(
        self, scenario: Description, run: RunConfig, workload: Workload, *, beside: Path
    ) -> None:
        self._scenario, self._run, self._workload = scenario, run, workload
        self._beside = beside

    def at(self, rate: float) -> Summary:
        """See `Rates`."""
        return simulate_rate(self._scenario, self._run, self._workload, rate, beside=self._beside)

    def expect(self, rates: Sequence[float]) -> None:
        """Nothing is done ahead."""


def sweep_rate(
    name: str,
    rates: Rates,
    base: float,
    *,
    attainment: float = ATTAINMENT,
    precision: float = PRECISION,
    on_point: Callable[[SweepPoint], None] | None = None,
) -> Sweep:
    """Bisect the arrival rate to within ``precision``, beginning at ``base`` requests per second.

    A rate meets the SLO if ``attainment`` of all requests do, one by one. Raises ConfigError for a
    workload that has no rate.
    """
    if isnan(base):
        raise ConfigError("no rate to sweep: all requests arrive at once; take more of them")
    points: list[SweepPoint] = []
    best: Summary | None = None

    def met(rate: float) -> bool:
        nonlocal best
        summary = rates.at(rate)
        point = SweepPoint(rate, summary.slo_share, summary.slo_share >= attainment)
        points.append(point)
        if on_point is not None:
            on_point(point)
        if point.met and (best is None or summary.offered_req_per_s > best.offered_req_per_s):
            best = summary
        return point.met

    low, high = _bracket(base, met, rates)
    while high / max(low, 1e-9) > 1 + precision and low > 0:
        rates.expect(list(_next_middles(low, high)))
        middle = (low + high) / 2
        low, high = (middle, high) if met(middle) else (low, middle)
    rates.expect([])
    return Sweep(name, low, best, tuple(points))


def _next_middles(low: float, high: float) -> list[float]:
    """Of the bisection: the next, then those that may follow it, level by level."""
    found: list[float] = []
    level = [(low, high)]
    for _ in range(_AHEAD):
        middles = [(a, (a + b) / 2, b) for a, b in level]
        found += [middle for _, middle, _ in middles]
        level = [half for a, middle, b in middles for half in ((middle, b), (a, middle))]
    return found


def _bracket(base: float, met: Callable[[float], bool], rates: Rates) -> tuple[float, float]:
    """A rate that meets the SLO (0 if none down to a thousandth) and one that does not."""
    rate = base
    rates.expect([base, *_steps(base, _STEP), *_steps(base, 1 / _STEP)])
    if met(rate):
        rates.expect(_steps(rate, _STEP))
        while met(rate * _STEP):
            rate *= _STEP
            if rate > base * _FURTHEST:
                break
            rates.expect(_steps(rate, _STEP))
        return rate, rate * _STEP
    while rate > base / _FURTHEST:
        rates.expect(_steps(rate, 1 / _STEP))
        if met(rate * (1 / _STEP)):
            return rate * (1 / _STEP), rate
        rate *= 1 / _STEP
    return 0.0, rate


def _steps(rate: float, factor: float) -> list[float]:
    found = []
    for _ in range(_AHEAD):
        rate *= factor
        found.append(rate)
    return found
