"""A production trace (`prfaas.workload.traces`) as a `Workload`.

A trace's own times win: recorded requests arrive when they did, and where only distributions are
published (ServeGen) lengths are drawn from them and arrivals follow the published rates. A trace
without times (Vidur's lengths) needs arrivals from the scenario.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from prfaas.core.errors import ConfigError
from prfaas.workload.arrivals import Arrivals, Times, following
from prfaas.workload.requests import Workload
from prfaas.workload.traces import BLOCK_TOKENS, PooledTrace, read_trace_file


def read_trace(
    path: Path, *, arrivals: Arrivals | None, count: int, rng: np.random.Generator
) -> Workload:
    """A recorded trace as a whole, or ``count`` requests drawn from distributions (fewer where
    their rates end earlier). ``arrivals`` serve where the trace has no times of its own.

    Raises ConfigError for a file that is none of the schemas, or lacks times when there are no
    ``arrivals`` either.
    """

    def arriving(requests: int) -> Times:
        if arrivals is None:
            raise ConfigError(
                f"trace {path} has no arrival times; give the scenario "
                "workload.arrivals: {process: poisson, rate: REQUESTS_PER_S}"
            )
        return arrivals.times(requests, rng)

    trace = read_trace_file(path)
    if isinstance(trace, PooledTrace):
        times = following(trace.rates, count, rng) if trace.rates else arriving(count)
        if times.size == 0:
            raise ConfigError(f"trace {path}: no request in it")
        prompts, outputs = (d.sample(rng, times.size) for d in (trace.prompts, trace.outputs))
        return Workload(times.tolist(), prompts.tolist(), outputs.tolist())
    recorded = trace.arrivals
    if recorded is None:
        recorded = arriving(len(trace.prompts)).tolist()
    return Workload(recorded, trace.prompts, trace.outputs, trace.blocks, BLOCK_TOKENS)
