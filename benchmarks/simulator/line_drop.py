"""A line that falls to 20% for a minute: P99 TTFT of those who arrive from then to two minutes
after it is back, against the P99 of those who came before. Both over all seeds together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from benchmarks.simulator.scenarios import EXAMPLES, Check, drawn, run, with_rate, with_seed

from prfaas.core.deployment import SchedulerConfig
from prfaas.sim.report import plot
from prfaas.sim.scenario import RunConfig, Scenario, Split, load_scenario
from prfaas.sim.summary import egress

SEEDS = range(1, 11)
DROP_S, BACK_S, AFTERMATH_S = 1800.0, 1860.0, 120.0


def line_drop(picture: Path) -> Iterator[Check]:
    """The example's deployment, at 90% of what it decodes; then the paper's split at its 90%."""
    scenario = load_scenario(EXAMPLES / "simulate-line-drop.yaml")
    levels = {config.name: level(scenario, config) for config in scenario.runs}
    ratios = {name: found["ratio"] for name, found in levels.items()}
    holds = max(ratios[name] for name in ("adaptive", "earliest", "elastic")) <= 2
    holds = holds and ratios["threshold"] > 2
    asked = "adaptive, earliest and elastic within 2x of their level before, threshold not"
    yield Check("line drop", levels, asked, holds)
    draw(scenario, picture)

    papers = with_rate(scenario, 2.88)
    levels = {config.name: level(papers, of_the_paper(config)) for config in scenario.runs}
    asked = "adaptive, earliest and elastic within 2x of their level before"
    ratios = {name: found["ratio"] for name, found in levels.items()}
    holds = max(ratios[name] for name in ("adaptive", "earliest", "elastic")) <= 2
    yield Check("line drop, the paper's split", levels, asked, holds)


def level(scenario: Scenario, config: RunConfig) -> dict[str, Any]:
    """Seconds of P99 TTFT before the drop and after, and their ratio."""
    before, after = [], []
    for seed in SEEDS:
        seeded = with_seed(scenario, seed)
        table = run(seeded, config, drawn(seeded)).recorder.table()
        arrived = table.arrived_at
        before.append(table.ttft_s[arrived < DROP_S])
        after.append(table.ttft_s[(arrived >= DROP_S) & (arrived < BACK_S + AFTERMATH_S)])
    levels = [float(np.percentile(np.concatenate(parts), 99)) for parts in (before, after)]
    return {"before": levels[0], "after": levels[1], "ratio": levels[1] / levels[0]}


def of_the_paper(config: RunConfig) -> RunConfig:
    """The same policy on 3 prefill and 5 decode nodes, at the paper's threshold."""
    threshold = {"threshold": "19.4K"} if config.name in ("threshold", "adaptive") else {}
    scheduler = SchedulerConfig(policy=config.scheduler.policy, **threshold)
    return msgspec.structs.replace(
        config, scheduler=scheduler, instances={"west": Split(prefill=3, decode=5)}
    )


def draw(scenario: Scenario, picture: Path) -> None:
    """One seed's TTFT over time and egress."""
    drawings = []
    workload = drawn(scenario)
    for config in scenario.runs:
        simulation = run(scenario, config, workload)
        drawings.append((config.name, simulation.recorder.table(), egress(simulation)))
    plot(picture, drawings)
