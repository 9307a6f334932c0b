"""*earliest* against the best static threshold, chosen with hindsight, on production traces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from benchmarks.simulator.scenarios import EXAMPLES, Check, load, run, with_trace
from numpy.typing import NDArray

from prfaas.core.deployment import SchedulerConfig
from prfaas.description.experiments import RunConfig
from prfaas.description.file import Description
from prfaas.sim.build import build_workload
from prfaas.sim.simulation import Simulation
from prfaas.sim.summary import summarise
from prfaas.workload.requests import Workload

LOAD = 0.8
GRID = tuple(2**k for k in range(8, 17))
BETWEEN = (0.6, 0.71, 0.84, 1.19, 1.41, 1.68)
"""Around the best of the grid, in ratio."""


def never_worse(trace: Path) -> Check:
    """P99 TTFT at 80% of what the best static threshold could carry without prefix reuse."""
    scenario = with_trace(load("trace.yaml"), trace, 12_000)
    workload = build_workload(scenario, beside=EXAMPLES)
    rate = LOAD * capacity(run(scenario, RunConfig(name=""), workload, until=0.0), workload)
    workload = workload.sped_up(rate / workload.rate)

    def p99(scenario: Description = scenario, **scheduler: Any) -> float:
        config = RunConfig(name="", scheduler=SchedulerConfig(**scheduler))
        return summarise("", run(scenario, config, workload), scenario.slo).ttft_s.p99

    static = {tokens: p99(policy="threshold", threshold=tokens) for tokens in GRID}
    best = min(static, key=lambda tokens: static[tokens])
    for tokens in (round(best * ratio) for ratio in BETWEEN):
        static[tokens] = p99(policy="threshold", threshold=tokens)
    best = min(static, key=lambda tokens: static[tokens])
    experiments = msgspec.structs.replace(scenario.experiments, costs="learned")
    learning = msgspec.structs.replace(scenario, experiments=experiments)
    measured = {
        "requests": len(workload),
        "rate": rate,
        "best threshold": best,
        "threshold": static[best],
        "earliest": p99(policy="earliest"),
        "earliest, learned costs": p99(learning, policy="earliest"),
        "elastic": p99(policy="elastic"),
    }
    holds = measured["earliest"] <= static[best] * 1.001
    return Check(f"trace {trace.name}", measured, "earliest is never worse (P99 TTFT)", holds)


def capacity(simulation: Simulation, workload: Workload) -> float:
    """Requests per second that the best threshold carries, no prompt being cached: equation (6)
    with sums over the workload's own lengths."""
    world = simulation.world
    prompts = np.sort(np.asarray(workload.prompts))
    specs = world.topology.engines
    prfaas = {c.name for c in world.topology.clusters if c.kind == "prfaas"}
    remote = [e.name for e in specs if e.role == "prefill" and e.cluster in prfaas]
    local = [e.name for e in specs if e.role == "prefill" and e.cluster not in prfaas]
    line = next(iter(simulation.lines.values()))

    def seconds(engines: list[str]) -> NDArray[np.float64]:
        return np.array([world.costs.prefill_s(engines[0], int(n)) for n in prompts]) / len(engines)

    def below(work: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.concatenate(([0.0], np.cumsum(work)))

    crossing = np.array([world.costs.kv_bytes(0, int(n)) for n in prompts]) / line.rate
    prefilled, sent, kept = below(seconds(remote)), below(crossing), below(seconds(local))
    busiest = np.maximum(np.maximum(prefilled[-1] - prefilled, sent[-1] - sent), kept)
    models = [m for m in world.engines if m.name not in remote + local]
    decode = sum(m.max_batch / m.step_seconds(m.max_batch) for m in models if m.step_seconds)
    return min(prompts.size / float(busiest.min()), decode / float(np.mean(workload.outputs)))
