"""A production trace (`prfaas.core.traces`) as a `Workload`.

A trace with times and lengths is replayed as it is. Where only distributions are published
(ServeGen), lengths are drawn from them and arrivals follow the published rates. Lengths alone
(Vidur) need arrivals from the scenario.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from prfaas.core.errors import ConfigError
from prfaas.core.traces import BLOCK_TOKENS, PooledTrace, RecordedTrace, read_trace_file
from prfaas.sim.workload import Arrivals, Workload


def read_trace(
    path: Path,
    *,
    arrivals: Arrivals | None,
    count: int,
    rng: np.random.Generator,
    keep_times: bool = False,
) -> Workload:
    """The whole trace; ``count`` bounds what is drawn (ServeGen). ``arrivals`` replaces the
    trace's own times; with ``keep_times`` only where it has none.

    Raises ConfigError for a file that is none of the schemas.
    """
    trace = read_trace_file(path)
    timeless = isinstance(trace, RecordedTrace) and trace.arrivals is None
    if keep_times and not timeless:
        arrivals = None
    if isinstance(trace, PooledTrace):
        workload = _drawn(trace, count, rng)
        if len(workload) == 0:
            raise ConfigError(f"trace {path}: no request in it")
    else:
        if trace.arrivals is None and arrivals is None:
            raise ConfigError(
                f"trace {path} has no arrival times; give the scenario "
                "workload.arrivals: {process: poisson, rate: REQUESTS_PER_S}"
            )
        workload = Workload(
            trace.arrivals or [0.0] * len(trace.prompts),
            trace.prompts,
            trace.outputs,
            trace.blocks,
            BLOCK_TOKENS,
        )
    if arrivals is None:
        return workload
    times = arrivals.times(len(workload), rng).tolist()
    return msgspec.structs.replace(workload, arrivals=times)


def _drawn(trace: PooledTrace, count: int, rng: np.random.Generator) -> Workload:
    if not trace.rates:
        return Workload([], [], [])
    starts = np.array([at for at, _ in trace.rates])
    rates = np.array([rate for _, rate in trace.rates])
    expected = np.concatenate(([0.0], np.cumsum(rates * 600.0)))
    edges = np.append(starts, starts[-1] + 600.0) - starts[0]
    unit = np.cumsum(rng.exponential(1.0, count))
    unit = unit[unit < expected[-1]]
    return Workload(
        np.interp(unit, expected, edges).tolist(),
        trace.prompts.sample(rng, unit.size).tolist(),
        trace.outputs.sample(rng, unit.size).tolist(),
    )
