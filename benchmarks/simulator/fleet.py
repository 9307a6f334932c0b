"""A fleet for a day: cost per request by the number of engines, as JSON, one line per run.

``python -m benchmarks.simulator.fleet``: half of the clusters only prefill, each PD cluster is
reached from three of them. Offered is what ten million requests a day are to a thousand engines,
and as much for each engine of a smaller fleet; the rate swings over the day. Each run is a process
of its own, so that its memory is its own. It takes the package that PYTHONPATH names; with
``--compiled`` a compiled copy is built and taken.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.simulator.scenarios import EXAMPLES

from prfaas.description.file import Description, parse_description
from prfaas.policies.registry import POLICIES
from prfaas.scheduler import scheduler as scheduler_module
from prfaas.sim.build import build_workload
from prfaas.sim.experiment import simulate
from prfaas.sim.runs import run_for
from prfaas.sim.summary import summarise

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "build" / "bench"
A_DAY_S = 86_400.0
PER_DAY = 10_000_000
ENGINES = 1000
LINES_EACH = 3


def fleet(engines: int, clusters: int, requests: int) -> Description:
    """Half of the clusters are PrfaaS; of a PD cluster's engines five in eight begin as decoders.

    The day is as long as the requests last: the fewer, the faster the rate swings.
    """
    pairs = clusters // 2
    each = engines // clusters
    decode = max(1, each * 5 // 8)
    rate = PER_DAY / A_DAY_S * engines / ENGINES
    found: list[str] = ["name: a fleet", "clusters:"]
    for number in range(pairs):
        count = f"{{count: {each}, profile: paper-1t-h200}}"
        found.append(f"  - {{name: p{number}, kind: prfaas, instances: {count}}}")
        roles = f"{{role: prefill, count: {each - decode}}}, {{role: decode, count: {decode}}}"
        found.append(
            f"  - {{name: d{number}, kind: pd, profile: paper-1t-h20-fit, instances: [{roles}]}}"
        )
    found.append("links:")
    for number in range(pairs):
        for step in range(min(LINES_EACH, pairs)):
            ends = f"from: p{(number + step) % pairs}, to: d{number}"
            found.append(f"  - {{{ends}, rate: {max(100, 4 * each)} Gbps, rtt: 20 ms}}")
    found += [
        "model: {block_tokens: 64}",
        "gateway: {request_deadline: 300 s}",
        "workload:",
        "  lengths: {lognormal: {mu: 9.90, sigma: 1.00, low: 128, high: 128K}}",
        "  output_tokens: 1024",
        f"  arrivals: {{process: diurnal, rate: {rate:.6f}, swing: 0.5,"
        f" period: {requests / rate:.0f} s}}",
        f"  requests: {requests}",
        "slo: {ttft: 10 s, tpot: 25 ms}",
    ]
    return parse_description("\n".join(found), source="the fleet")


def measure(engines: int, clusters: int, requests: int, policy: str) -> dict[str, object]:
    """CPU seconds from the first event to the last, and the most memory the process had."""
    description = fleet(engines, clusters, requests)
    workload = build_workload(description, beside=EXAMPLES)
    loaded = _rss_mib()
    begun, began = time.process_time(), time.perf_counter()
    simulation = simulate(
        description, run_for(description, policy), workload, beside=EXAMPLES, on_progress=_tell
    )
    seconds, wall = time.process_time() - begun, time.perf_counter() - began
    summary = summarise(policy, simulation, description.slo)
    return {
        "engines": engines,
        "clusters": clusters,
        "requests": requests,
        "policy": policy,
        "compiled": not scheduler_module.__file__.endswith(".py"),
        "cpu_s": round(seconds, 2),
        "wall_s": round(wall, 2),
        "us_per_request": round(seconds / requests * 1e6, 2),
        "events": simulation.clock.events,
        "events_per_s": round(simulation.clock.events / seconds),
        "rss_before_mib": loaded,
        "rss_peak_mib": _rss_mib(),
        "goodput_req_per_s": summary.goodput_req_per_s,
        "offered_req_per_s": summary.offered_req_per_s,
        "ttft_p99_s": summary.ttft_s.p99,
        "lost": summary.lost,
    }


def _rss_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _tell(arrived: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{arrived:,}", end="", file=sys.stderr)


def repeated(
    engines: int, clusters: int, arguments: argparse.Namespace, environment: dict[str, str]
) -> dict[str, object]:
    """The median of some runs, each in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.simulator.fleet", "--one", str(engines)]
    command += [str(clusters), str(arguments.requests), "--policy", arguments.policy]
    runs = []
    for _ in range(arguments.repeat):
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True, text=True
        )
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    middle = statistics.median_low([run["cpu_s"] for run in runs])
    found: dict[str, object] = next(run for run in runs if run["cpu_s"] == middle)
    return found


def main() -> int:
    """The exit status: 1 where a day would take more than 15 minutes of CPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=3, type=int, metavar=("ENGINES", "CLUSTERS", "REQUESTS"))
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--policy", default="auto", choices=POLICIES)
    parser.add_argument("--compiled", action="store_true")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(*arguments.one, arguments.policy)))
        return 0
    environment = dict(os.environ)
    if arguments.compiled:
        subprocess.run([sys.executable, "benchmarks/simulator/compile.py"], cwd=ROOT, check=True)
        environment["PYTHONPATH"] = str(ROOT / "build" / "compiled")
    results = []
    for engines, clusters in ((10, 2), (100, 4), (ENGINES, 20)):
        results.append(repeated(engines, clusters, arguments, environment))
        print(json.dumps(results[-1]), flush=True)
    OUT.mkdir(parents=True, exist_ok=True)
    per_request = [float(str(result["us_per_request"])) for result in results]
    day_s = per_request[-1] * PER_DAY / 1e6
    report = {"runs": results, "day_cpu_s": day_s, "cost_ratio": per_request[-1] / per_request[0]}
    (OUT / "simulator-fleet.json").write_text(json.dumps(report, indent=1))
    print(f"ten million requests: {day_s:.0f} s of CPU; {report['cost_ratio']:.2f} times the cost")
    return 0 if day_s <= 900 else 1


if __name__ == "__main__":
    sys.exit(main())
