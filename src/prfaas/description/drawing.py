"""Requests, drawn or read as a workload's description says."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from prfaas.core.errors import ConfigError
from prfaas.core.strict import naming
from prfaas.description.workload import WorkloadConfig
from prfaas.workload.replay import replayed
from prfaas.workload.requests import Workload, draw


def drawn(asked: WorkloadConfig, *, seed: int, beside: Path) -> Workload:
    """The workload's requests; the same ``seed`` draws the same. ``beside``: where a relative trace
    path starts.

    Raises ConfigError where it does not say what is asked, or when requests arrive.
    """
    count, rng = asked.requests, np.random.default_rng(seed)
    arrivals = None if asked.arrivals is None else asked.arrivals.arrivals()
    if asked.source is not None:
        trace = asked.source.read(beside)
        with naming(f"trace {asked.source.file}"):
            workload = replayed(trace, arrivals=arrivals, count=count, rng=rng)
    else:
        if arrivals is None:
            raise ConfigError("workload: write arrivals: {rate: REQUESTS_PER_S}, or trace: FILE")
        with naming("workload"):
            lengths, answer = asked.uncached_lengths(), round(asked.answer_tokens())
        workload = draw(lengths, answer, arrivals, count, rng)
    return workload.sped_up(asked.speed_up)
