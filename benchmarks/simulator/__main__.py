"""All of it: ``python -m benchmarks.simulator [--trace MOONCAKE] [--also TRACE ...]``.

``--dynosim PYTHON`` names the interpreter of an environment that has ``ai-dynamo-runtime``, where
this one has not.

Writes build/bench/simulator.json and a plot of the line drop; exits 1 if a check does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import msgspec
from benchmarks.simulator.checks import Check, all_checks

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
OUT = ROOT / "build" / "bench"
LIMITS = {"mooncake trace": (0.4, 12_031), "paper workload": (60.0, 1_000_000)}
"""Name -> seconds allowed for how many requests."""


def lines_of(
    module: str, *arguments: str, compiled: bool = False, python: str = sys.executable
) -> list[dict[str, object]]:
    """The JSON lines that a module of this folder prints."""
    environment = dict(os.environ)
    if compiled:
        environment["PYTHONPATH"] = str(ROOT / "build" / "compiled")
    command = [python, "-m", f"benchmarks.simulator.{module}", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True, text=True
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def speed(
    trace: Path | None, requests: int, dynosim: str
) -> tuple[list[dict[str, object]], list[Check]]:
    given = [] if trace is None else ["--trace", str(trace.resolve())]
    arguments = ["--requests", str(requests), *given]
    results = lines_of("speed", *arguments)
    if subprocess.run([sys.executable, str(HERE / "compile.py")], check=False).returncode == 0:
        results += lines_of("speed", *arguments, compiled=True)
    if trace is not None:
        results += lines_of("dynosim", str(trace.resolve()), python=dynosim)
    timed = [r for r in results if "digest" in r]
    digests = {name: {r["digest"] for r in timed if r["name"] == name} for name in LIMITS}
    same = all(len(digest) <= 1 for digest in digests.values())
    checks = [Check("same results", {}, "plain and compiled", same)]
    for name, (limit, per) in LIMITS.items():
        plain, compiled = (
            median([seconds_of(r, per) for r in timed if r["name"] == name and r["compiled"] is c])
            for c in (False, True)
        )
        if plain is None:
            continue
        ours = plain if compiled is None else compiled
        measured = {"plain s": plain, "compiled s": compiled}
        peer = median([seconds_of(r, per) for r in results if r["name"] == "dynosim"])
        if peer is not None and name == "mooncake trace":
            measured |= {"DynoSim s": peer, "DynoSim / ours": peer / ours}
        checks.append(Check(f"speed, {name}", measured, f"<= {limit} s", ours <= limit))
    return results, checks


def seconds_of(result: dict[str, object], requests: int) -> float:
    """CPU seconds for so many requests; nan where it was not run."""
    return float(str(result.get("seconds", "nan"))) * requests / int(str(result.get("requests", 1)))


def median(seconds: list[float]) -> float | None:
    measured = [s for s in seconds if s == s]
    return statistics.median(measured) if measured else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", type=Path, help="the Mooncake conversation trace")
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="other traces")
    parser.add_argument("--dynosim", metavar="PYTHON", default=sys.executable)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--only", choices=["speed", "checks"])
    arguments = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    timings: list[dict[str, object]] = []
    checks: list[Check] = []
    if arguments.only != "checks":
        timings, checks = speed(arguments.trace, arguments.requests, arguments.dynosim)
        for timing in timings:
            print(json.dumps(timing))
        for check in checks:
            show(check)
    if arguments.only != "speed":
        traces = [*([arguments.trace] if arguments.trace else []), *arguments.also]
        for check in all_checks(traces, OUT / "line-drop.png"):
            checks.append(check)
            show(check)
    result = {"timings": timings, "checks": checks}
    (OUT / "simulator.json").write_bytes(msgspec.json.format(msgspec.json.encode(result)))
    return 0 if all(check.holds for check in checks) else 1


def show(check: Check) -> None:
    print("ok  " if check.holds else "FAIL", check.name, "|", check.asked, "|", check.measured)


if __name__ == "__main__":
    sys.exit(main())
