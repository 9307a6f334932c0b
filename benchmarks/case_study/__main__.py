"""Table 6 and Figure 5 of the paper beside our planner, our simulator and the running system.

The running system is the product as it is: `prfaas up` starts agents (TLS) and gateway; engines
are mock servers that take the profiles' times and hand S_kv over through the engine socket
(`prfaas.testing.profiled_engine`). To fit two cores, seconds are multiplied with ``--slow`` and
bytes divided by ``--byte-scale``; the line's rate is divided by both, so times in the table are
the paper's.

Each deployment is offered a fifth more than the planner says it can carry (`auto` its bound);
measured is what it answers per second after its batches have filled. Fails where a deployment is
off the planner's Lambda (exact expectations) by more than 5%, or `auto` below 0.95 of the elastic
bound.

    python -m benchmarks.case_study [--slow 1] [--byte-scale 64] [--requests 500] [--only NAME ...]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from math import nan
from pathlib import Path
from typing import Any

import msgspec
from benchmarks.case_study.cases import (
    BLOCK_TOKENS,
    FILE,
    Case,
    cases,
    deployment_file,
    description,
)
from benchmarks.case_study.figure import draw
from benchmarks.case_study.load import Outcome, asked, drawn, evened, sustained

from prfaas.sim.experiment import simulate
from prfaas.testing.running import RunningDeployment
from prfaas.workload.requests import Workload

FILLED_S = 40.0
"""An answer takes 25.6 s: before, less is answered than is begun."""
OUTPUT = Path("build/bench")


class Row(msgspec.Struct):
    """Requests per second; TTFT is of the requests answered, at saturation."""

    name: str
    title: str
    paper: float | None
    planned: float
    simulated: float
    live: float
    live_over_planned: float
    offloaded_share: float
    refused: int
    lost: int
    errors: list[str]
    seconds: float


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.case_study", description=__doc__)
    parser.add_argument("--slow", type=float, default=1.0)
    parser.add_argument("--byte-scale", type=float, default=64.0)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--only", nargs="+", help="names of deployments")
    args = parser.parse_args()
    rows = []
    for case in cases():
        if args.only and case.name not in args.only:
            continue
        print(f"{case.title} ...", file=sys.stderr, flush=True)
        rows.append(measured(case, args))
        print(msgspec.json.encode(rows[-1]).decode(), file=sys.stderr, flush=True)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    report = {
        "slow": args.slow,
        "byte_scale": args.byte_scale,
        "requests": args.requests,
        "rows": msgspec.to_builtins(rows),
    }
    (OUTPUT / "case_study.json").write_text(json.dumps(report, indent=1))
    print(table(rows, args))
    if not args.only:
        draw(OUTPUT / "figure5.svg", rows)
    return 0 if all(holds(row) for row in rows) else 1


def holds(row: Row) -> bool:
    """Within 5% of the planner; `auto` is compared with a bound that it may come near."""
    least, most = (0.95, 1.02) if row.name == "auto" else (0.95, 1.05)
    return least <= row.live_over_planned <= most and row.lost == 0


def measured(case: Case, args: argparse.Namespace) -> Row:
    described = description(case.offered, args.requests)
    assert described.asked.lengths is not None
    workload = drawn(described.asked.lengths.distribution(), 1024, case.offered, args.requests, 1)
    if case.scheduler.policy == "auto":  # Offered no more than the bound, it can answer no more.
        workload = msgspec.structs.replace(
            workload, arrivals=evened(workload.arrivals, case.offered)
        )
    end = workload.arrivals[-1]
    simulation = simulate(described, case.run, workload, beside=FILE.parent, until=end)
    done = simulation.recorder.table().done_at
    simulated = sustained(workload.prompts, done, FILLED_S, end, case.cut)
    began = time.monotonic()
    outcomes = live(case, workload, args)
    return _row(case, outcomes, end, simulated, time.monotonic() - began)


def _row(case: Case, outcomes: list[Outcome], end: float, simulated: float, seconds: float) -> Row:
    answered = [o for o in outcomes if o.done is not None and FILLED_S <= o.done < end]
    rate = sustained(
        [o.prompt_tokens for o in outcomes],
        [nan if o.done is None else o.done for o in outcomes],
        FILLED_S,
        end,
        case.cut,
    )
    wrong = [o for o in outcomes if o.error is not None and o.status != 429]
    return Row(
        name=case.name,
        title=case.title,
        paper=case.paper,
        planned=case.planned,
        simulated=simulated,
        live=rate,
        live_over_planned=rate / case.planned,
        offloaded_share=sum(o.route == "offload" for o in answered) / max(1, len(answered)),
        refused=sum(o.status == 429 for o in outcomes),
        lost=len(wrong),
        errors=sorted({o.error or "" for o in wrong})[:3],
        seconds=seconds,
    )


def live(case: Case, workload: Workload, args: argparse.Namespace) -> list[Outcome]:
    """The same workload on the running system."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        wanted = [
            {**engine, "socket": str(home / f"{engine['cluster']}.sock")}
            for engine in case.engines()
        ]
        order: dict[str, Any] = {
            "engines": wanted,
            "slow": args.slow,
            "byte_scale": args.byte_scale,
            "block_tokens": BLOCK_TOKENS,
            "max_batch": 20,
        }
        engines = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.case_study.engines"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert engines.stdin is not None
            assert engines.stdout is not None
            engines.stdin.write(json.dumps(order) + "\n")
            engines.stdin.flush()
            urls = json.loads(engines.stdout.readline())
            file = home / "deployment.json"
            file.write_text(
                json.dumps(
                    deployment_file(case, urls, home, slow=args.slow, byte_scale=args.byte_scale)
                )
            )
            with RunningDeployment(file, home / "up") as running:
                return asyncio.run(
                    asked(running.url, workload, slow=args.slow, until=workload.arrivals[-1])
                )
        finally:
            assert engines.stdin is not None
            engines.stdin.close()
            engines.wait(30)


def table(rows: list[Row], args: argparse.Namespace) -> str:
    """For a reader, in Markdown."""
    base = next((row for row in rows if row.name == "homogeneous"), None)
    lines = [
        "| | paper | planner, exact | simulator | running system | of the planner's | "
        "of homogeneous |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ratio = "" if base is None else f"{row.live / base.live:.2f} x"
        lines.append(
            f"| {row.title} | {row.paper or '-'} | {row.planned:.2f} | {row.simulated:.2f} | "
            f"{row.live:.2f} | {row.live_over_planned:.3f} | {ratio} |"
        )
    lines.append(
        f"\nLambda in requests per second. Live: {args.requests} requests, seconds times "
        f"{args.slow:g}, bytes and line divided by {args.byte_scale:g}. For auto the planner's "
        "figure is the elastic fluid bound."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
