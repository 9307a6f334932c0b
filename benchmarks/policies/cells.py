"""Cells of the table: a workload, a load, with or without prefix caches, a line; and their bounds.

The deployment is that of examples/trace.yaml. The *bound* is the planner's elastic fluid
optimum for the workload's own lengths: the most that any routing could serve, with roles divided as
suits. Loads are shares of the bound with the whole line. Where the line drops, it carries a fifth
of its rate during the middle third of the run, and the cell's bound is the mean over time.

What could be *reached* is less where requests come in bursts: it is what a single queue, served at
the bound's rate, takes in while it is shorter than the TTFT SLO.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import msgspec
import numpy as np
from benchmarks.simulator.scenarios import EXAMPLES, load, with_trace

from prfaas.core.units import parse_rate, parse_tokens
from prfaas.description.experiments import LineChange, RunConfig
from prfaas.description.file import Description
from prfaas.description.workload import (
    ArrivalConfig,
    LengthsConfig,
    LogNormalConfig,
    WorkloadConfig,
)
from prfaas.planner.fluid import fluid_optimum
from prfaas.planner.hardware import clusters_of, lines_of
from prfaas.planner.split import Demand
from prfaas.policies.registry import for_policy
from prfaas.sim.build import build_workload
from prfaas.sim.experiment import simulate
from prfaas.sim.summary import Summary, summarise
from prfaas.workload.lengths import EmpiricalLengths
from prfaas.workload.prefix_cache import PrefixCache
from prfaas.workload.requests import Workload

DROPPED = 0.2
DRAWN = {
    "drawn: the paper's lengths": (LogNormalConfig(), 1024),
    "drawn: long prompts, short answers": (LogNormalConfig(mu=10.3, sigma=0.8), 64),
    "drawn: short prompts, long answers": (LogNormalConfig(mu=7.5, sigma=1.0), 3000),
}
"""Name -> prompt lengths and answer tokens of Poisson arrivals."""


class Cell(msgspec.Struct, frozen=True):
    """``trace``: a file, or a name of `DRAWN`."""

    trace: str
    requests: int
    load: float
    caches: bool
    line_drops: bool
    policy: str


class Result(msgspec.Struct, frozen=True):
    """One cell as build/bench/policies.json has it. ``reachable_req_per_s``: see the module."""

    trace: str
    load: float
    caches: bool
    line: str
    policy: str
    offered_req_per_s: float
    goodput_req_per_s: float
    fluid_bound_req_per_s: float
    reachable_req_per_s: float
    ttft_p99_s: float
    slo_share: float
    refused: int
    """By admission; ``lost`` are others that were not answered by the end of the run."""
    lost: int
    direct_share: float
    offloaded_share: float


def measure(cell: Cell) -> Result:
    """Simulate one cell."""
    scenario = _scenario(cell.trace, cell.requests)
    workload, whole, dropped = prepared(cell.trace, cell.requests, cell.caches)
    offered = cell.load * whole
    workload = workload.sped_up(offered / workload.rate)
    if cell.line_drops:
        scenario = _with_drop(scenario, workload.arrivals[-1])
    run = RunConfig(
        name=cell.policy, scheduler=for_policy(scenario.experiments.runs[0].scheduler, cell.policy)
    )
    until = workload.arrivals[-1] * 1.5 + 600.0
    simulation = simulate(scenario, run, workload, beside=EXAMPLES, until=until)
    summary = summarise(cell.policy, simulation, scenario.slo)
    low = dropped if cell.line_drops else whole
    return _result(cell, summary, whole, low, _reachable(workload, scenario, whole, low))


def _reachable(workload: Workload, scenario: Description, whole: float, low: float) -> float:
    """Requests per second of the steady part that a pooled queue takes in."""
    arrivals = workload.arrivals
    start, end = arrivals[len(arrivals) // 10], arrivals[-1]
    queued = at = 0.0
    taken = 0
    for arrival in arrivals:
        rate = low if end / 3 <= arrival < end * 2 / 3 else whole
        queued = max(0.0, queued - (arrival - at) * rate)
        at = arrival
        if queued < rate * scenario.slo.ttft_s:
            queued += 1
            taken += start <= arrival < end
    return taken / (end - start)


def _result(cell: Cell, summary: Summary, whole: float, low: float, reachable: float) -> Result:
    # The steady part begins after about a tenth of the time: of the rest 10/27 sees the drop.
    bound = whole + (low - whole) * 10 / 27
    return Result(
        trace=cell.trace if cell.trace in DRAWN else Path(cell.trace).name.split(".")[0],
        load=cell.load,
        caches=cell.caches,
        line=f"at {DROPPED:.0%} for a third" if cell.line_drops else "steady",
        policy=cell.policy,
        offered_req_per_s=summary.offered_req_per_s,
        goodput_req_per_s=summary.goodput_req_per_s,
        fluid_bound_req_per_s=bound,
        reachable_req_per_s=reachable,
        ttft_p99_s=summary.ttft_s.p99,
        slo_share=summary.slo_share,
        refused=summary.refused,
        lost=summary.lost,
        direct_share=summary.direct_share,
        offloaded_share=summary.offloaded_share,
    )


@cache
def prepared(trace: str, requests: int, caches: bool) -> tuple[Workload, float, float]:
    """The workload at its own rate, its bound in requests per second, and that with the line at
    `DROPPED`."""
    scenario = _scenario(trace, requests)
    workload = build_workload(scenario, beside=EXAMPLES).first(requests)
    if not caches:
        workload = msgspec.structs.replace(workload, blocks=())
    uncached = EmpiricalLengths(_uncached(scenario, workload))
    bounds = [_bound(scenario, workload, uncached, share) for share in (1.0, DROPPED)]
    return workload, bounds[0], bounds[1]


def has_blocks(trace: str, requests: int) -> bool:
    """Whether the workload says which prefixes are shared."""
    return bool(prepared(trace, requests, True)[0].blocks)


def _scenario(trace: str, requests: int) -> Description:
    scenario = load("trace.yaml")
    if trace in DRAWN:
        lengths, output_tokens = DRAWN[trace]
        workload = WorkloadConfig(
            requests=requests,
            lengths=LengthsConfig(lognormal=lengths),
            output_tokens=output_tokens,
            arrivals=ArrivalConfig(rate=1.0),
        )
    else:
        scenario = with_trace(scenario, Path(trace), requests)
        workload = msgspec.structs.replace(scenario.asked, arrivals=ArrivalConfig(rate=1.0))
    return msgspec.structs.replace(scenario, workload=workload)


def _with_drop(scenario: Description, end_s: float) -> Description:
    changes = []
    for link in scenario.links:
        ends, rate = {"source": link.source, "target": link.target}, str(link.rate)
        low = f"{parse_rate(rate) * DROPPED * 8:.0f} bit/s"
        changes.append(LineChange(**ends, at=f"{end_s / 3:.3f} s", rate=low))
        changes.append(LineChange(**ends, at=f"{end_s * 2 / 3:.3f} s", rate=rate))
    experiments = msgspec.structs.replace(scenario.experiments, line_changes=tuple(changes))
    return msgspec.structs.replace(scenario, experiments=experiments)


def _uncached(scenario: Description, workload: Workload) -> list[int]:
    """Prompt tokens that one cache as large as a cluster's would lack."""
    if not workload.blocks:
        return list(workload.prompts)
    tokens = max(parse_tokens(cluster.prefix_cache) for cluster in scenario.clusters)
    held = PrefixCache(tokens // workload.block_tokens)
    found = []
    for prompt, blocks in zip(workload.prompts, workload.blocks, strict=True):
        found.append(prompt - min(held.match(blocks) * workload.block_tokens, prompt - 1))
        held.insert(blocks)
    return found


def _bound(
    scenario: Description, workload: Workload, uncached: EmpiricalLengths, line_share: float
) -> float:
    clusters = clusters_of(scenario, EXAMPLES)
    lines = [
        msgspec.structs.replace(line, bytes_per_s=line.bytes_per_s * line_share)
        for line in lines_of(scenario)
    ]
    kv = clusters[0].profile.kv_size()
    assert kv is not None
    demand = Demand(
        lengths=uncached,
        output_tokens=float(np.mean(workload.outputs)),
        kv=kv,
        tokens_per_s=1 / scenario.slo.tpot_s,
    )
    return fluid_optimum(demand, clusters, lines).lambda_max
