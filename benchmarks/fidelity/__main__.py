"""Real engines are profiled, asked a script of prompts, and simulated from the gateway's journal.

The embedded deployment runs (two clusters, a paced line, three engines on this machine's CPU). It
is profiled with `prfaas profile` while idle. Then a fixed script of fresh prompts arrives at the
gateway at random times. The gateway's journal is then what the simulator gets: the same arrivals,
the same policy, the measured profiles.

Fails unless mean and P90 TTFT agree within 15%, 95% of the requests took the same route, and the
journal, played to a fresh scheduler, gives the same commands.

    python -m benchmarks.fidelity [--requests 60] [--time 60s] [--busy 0.35]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from benchmarks.case_study.load import asked, drawn
from benchmarks.fidelity.stage import MOCK, REAL, Stage, mock, real

from prfaas.cli.main import main as prfaas
from prfaas.description.file import Description, load_description
from prfaas.models.profiles import load_profile
from prfaas.scheduler.replay import read_journal, replay
from prfaas.sim.experiment import simulate
from prfaas.sim.happened import as_it_was, read_happened
from prfaas.sim.metrics import RequestTable
from prfaas.workload.lengths import TruncatedLogNormal

TTFT_WITHIN, ROUTES_ALIKE = 0.15, 0.95
OUTPUT = Path("build/bench/fidelity.json")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fidelity", description=__doc__)
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--time", default="60s", help="to profile each engine")
    parser.add_argument("--busy", type=float, default=0.35, help="share of the slowest engine")
    parser.add_argument(
        "--mock",
        action="store_true",
        help="engines that take the paper's times in place of real ones: a busy machine matters "
        "less, and queues can be tried",
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        journal, profiles = home / "journal.jsonl", home / "profiles"
        print("starting ...", flush=True)
        stage, deployed = (MOCK, mock) if args.mock else (REAL, real)
        with deployed(home, journal) as running:
            file = running.run_directory / "deployment.json"
            bounds = ["--longest", str(stage.longest + 100), "--max-batch", "16"]
            options = [*bounds, "--time", args.time]
            if prfaas(["profile", str(file), "-o", str(profiles), *options]):
                return 1
            described = load_description(file).with_profiles(
                {name: str(profiles / f"{name}.yaml") for name in ("east", "west")}
            )
            ask(running.url, profiles, args, stage)
        report = compared(described, journal, home)
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(report, indent=1))
    print(json.dumps(report, indent=1))
    return 0 if report["holds"] else 1


def ask(url: str, profiles: Path, args: argparse.Namespace, stage: Stage) -> None:
    """The script, at a rate that leaves each stage idle most of the time."""
    known = [load_profile(str(path)).prefill_or_refuse for path in profiles.glob("*.yaml")]
    longest = min([stage.longest, *(profile.max_tokens for profile in known)])
    lengths = TruncatedLogNormal(stage.mu, stage.sigma, 100, longest)
    slowest = max(profile.seconds(lengths.mean()) for profile in known)
    rate = args.busy / slowest
    print(f"{args.requests} requests at {rate:.2f} a second ...", flush=True)
    workload = drawn(lengths, stage.output_tokens, rate, args.requests, seed=7)
    outcomes = asyncio.run(
        asked(url, workload, slow=1.0, until=workload.arrivals[-1] + 60.0, first_id=stage.first_id)
    )
    failed = [outcome for outcome in outcomes if outcome.done is None]
    if failed:
        sys.exit(f"{len(failed)} requests failed: {failed[0].error}")


def compared(described: Description, journal: Path, home: Path) -> dict[str, object]:
    """What the journal says beside what the simulator says."""
    happened = read_happened(journal, described, beside=home)
    there, run = as_it_was(described, happened)
    live = happened.table
    known = happened.opened.costs
    simulation = simulate(there, run, happened.workload, beside=home, begun_with=known)
    simulated = simulation.recorder.table()
    with journal.open("rb") as lines:
        differences = sum(1 for _ in replay(read_journal(lines)))
    found = {
        "requests": len(live.arrived_at),
        "ttft_mean_s": pair(live, simulated, np.mean),
        "ttft_p90_s": pair(live, simulated, lambda ttft: np.percentile(ttft, 90)),
        "routes_alike": float(np.mean(live.route == simulated.route)),
        "by_route": {
            name: {
                "requests": int((live.route == code).sum()),
                "live_mean_s": mean_of(live, live.route == code),
                "simulated_mean_s": mean_of(simulated, live.route == code),
            }
            for name, code in (("direct", 1), ("pd-p", 2), ("offload", 3))
        },
        "replayed_commands_that_differ": differences,
    }
    near = [abs(found[name]["off"]) <= TTFT_WITHIN for name in ("ttft_mean_s", "ttft_p90_s")]
    found["holds"] = all(near) and found["routes_alike"] >= ROUTES_ALIKE and differences == 0
    return found


def mean_of(table: RequestTable, which: np.ndarray) -> float | None:
    return float(table.ttft_s[which].mean()) if which.any() else None


def pair(live: RequestTable, simulated: RequestTable, of: object) -> dict[str, float]:
    ours, theirs = float(of(simulated.ttft_s)), float(of(live.ttft_s))
    return {"live": theirs, "simulated": ours, "off": ours / theirs - 1}


if __name__ == "__main__":
    sys.exit(main())
