"""A production trace as a `Workload`.

A trace's own times win: recorded requests arrive when they did, and where only distributions are
published (ServeGen) lengths are drawn from them and arrivals follow the published rates. A trace
without times (Vidur's lengths) needs arrivals from the scenario.
"""

from __future__ import annotations

import numpy as np

from prfaas.core.errors import ConfigError
from prfaas.workload.arrivals import Arrivals, Times, following
from prfaas.workload.requests import Workload
from prfaas.workload.trace import PooledTrace, RecordedTrace


def replayed(
    trace: RecordedTrace | PooledTrace,
    *,
    arrivals: Arrivals | None,
    count: int,
    rng: np.random.Generator,
) -> Workload:
    """A recorded trace as a whole, or ``count`` requests drawn from distributions (fewer where
    their rates end earlier). ``arrivals`` serve where the trace has no times of its own.

    Raises ConfigError where the trace lacks times and there are no ``arrivals`` either.
    """
    if isinstance(trace, PooledTrace):
        times = following(trace.rates, count, rng) if trace.rates else _times(arrivals, count, rng)
        if times.size == 0:
            raise ConfigError("no request in it")
        prompts, outputs = (d.sample(rng, times.size) for d in (trace.prompts, trace.outputs))
        return Workload(
            times.tolist(),
            prompts.tolist(),
            outputs.tolist(),
            clipped_share=trace.clipped_share,
        )
    recorded = trace.arrivals
    if recorded is None:
        recorded = _times(arrivals, len(trace.prompts), rng).tolist()
    return Workload(
        recorded,
        trace.prompts,
        trace.outputs,
        trace.blocks,
        trace.block_tokens,
        clipped_share=trace.clipped_share,
    )


def _times(arrivals: Arrivals | None, requests: int, rng: np.random.Generator) -> Times:
    if arrivals is None:
        raise ConfigError(
            "it has no arrival times; give the scenario "
            "workload.arrivals: {process: poisson, rate: REQUESTS_PER_S}"
        )
    return arrivals.times(requests, rng)
