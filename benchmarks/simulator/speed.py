"""Simulation speed as JSON, one line per measurement, of the package that PYTHONPATH names.

``python -m benchmarks.simulator`` runs it for the plain and for the compiled package.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path

from benchmarks.simulator.scenarios import EXAMPLES, drawn, load, with_requests, with_trace

from prfaas.description.experiments import RunConfig
from prfaas.description.file import Description
from prfaas.scheduler import scheduler as scheduler_module
from prfaas.sim.build import build_workload
from prfaas.sim.experiment import simulate
from prfaas.workload.requests import Workload


def measure(name: str, scenario: Description, run: RunConfig, workload: Workload) -> None:
    """CPU seconds of one run, from its first event to its last; loading is not counted."""
    begun = time.process_time()
    simulation = simulate(scenario, run, workload, beside=EXAMPLES)
    seconds = time.process_time() - begun
    table = simulation.recorder.table()
    digest = hashlib.sha256(table.first_at.tobytes() + table.done_at.tobytes()).hexdigest()
    print(
        json.dumps(
            {
                "name": name,
                "requests": len(workload),
                "seconds": round(seconds, 3),
                "requests_per_s": round(len(workload) / seconds),
                "compiled": not scheduler_module.__file__.endswith(".py"),
                "digest": digest[:16],
            }
        ),
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", type=Path, help="a Mooncake trace")
    parser.add_argument("--requests", type=int, default=1_000_000)
    arguments = parser.parse_args()
    traced = load("trace.yaml")
    if arguments.trace is not None:
        traced = with_trace(traced, arguments.trace, arguments.requests)
        workload = build_workload(traced, beside=EXAMPLES)
        for _ in range(3):
            measure("mooncake trace", traced, traced.experiments.runs[0], workload)
    paper = with_requests(load("paper.yaml"), arguments.requests)
    measure("paper workload", paper, paper.experiments.runs[0], drawn(paper))


if __name__ == "__main__":
    main()
