"""All policies on trace files and drawn workloads: ``python -m benchmarks.policies [TRACE ...]``.

Prints a table, writes build/bench/policies.json and a plot; exits 1 where *auto* has less than 0.97
of the goodput of the best other policy, less than 0.95 of what could be reached up to 95% load, or
less than 0.9 of it above that, or a P99 of the time to first token above 1.05 of the best other
policy's where both meet the SLO.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from math import inf
from os import cpu_count
from pathlib import Path

import msgspec
from benchmarks.policies.cells import DRAWN, Cell, Result, has_blocks, measure
from benchmarks.policies.picture import draw, share

from prfaas.policies.registry import POLICIES

OUT = Path(__file__).resolve().parents[2] / "build" / "bench"
LOADS = (0.6, 0.8, 0.95, 1.2)
SLO_S = 10.0
"""Of the time to first token, as in the deployment that is simulated."""


def main() -> int:
    """The exit status."""
    arguments = _parser().parse_args()
    traces = [str(path) for path in arguments.traces] + ([] if arguments.no_drawn else [*DRAWN])
    cells = list(_cells(traces, arguments))
    OUT.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(arguments.processes) as pool:
        results = list(_told(pool.map(measure, cells, chunksize=1), len(cells)))
    (OUT / "policies.json").write_bytes(msgspec.json.format(msgspec.json.encode(results)))
    draw(OUT / "policies.png", results)
    shortfalls = [line for row in _rows(results) for line in _show(row)]
    for line in shortfalls:
        print("FAIL", line)
    return 1 if shortfalls else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("traces", type=Path, nargs="*", help="trace files of any known schema")
    parser.add_argument("--no-drawn", action="store_true", help="leave the drawn workloads out")
    parser.add_argument("--policies", nargs="+", default=sorted(POLICIES), choices=POLICIES)
    parser.add_argument("--loads", type=float, nargs="+", default=LOADS)
    parser.add_argument("--requests", type=int, default=6000)
    parser.add_argument("--processes", type=int, default=cpu_count())
    return parser


def _cells(traces: Sequence[str], arguments: argparse.Namespace) -> Iterator[Cell]:
    count = arguments.requests
    for trace in traces:
        for caches in (False, True) if has_blocks(trace, count) else (False,):
            for drops in (False, True):
                for load in arguments.loads:
                    for policy in arguments.policies:
                        yield Cell(trace, count, load, caches, drops, policy)


def _told(results: Iterator[Result], total: int) -> Iterator[Result]:
    for done, result in enumerate(results, 1):
        if sys.stderr.isatty():
            print(f"\r{done}/{total} {result.trace:40}", end="", file=sys.stderr)
        yield result


def _rows(results: Sequence[Result]) -> Iterator[list[Result]]:
    """The policies of one workload, line and load."""
    rows: dict[tuple[str, bool, str, float], list[Result]] = {}
    for result in results:
        key = (result.trace, result.caches, result.line, result.load)
        rows.setdefault(key, []).append(result)
    yield from rows.values()


def _show(row: list[Result]) -> Iterator[str]:
    """Print one row of the table; what falls short in it."""
    first = row[0]
    where = f"{first.trace}{' +caches' if first.caches else ''}, line {first.line}"
    where += f", load {first.load:.0%}"
    print(f"\n{where}: offered {first.offered_req_per_s:.2f}, ", end="")
    print(f"bound {first.fluid_bound_req_per_s:.2f}, ", end="")
    print(f"reachable {first.reachable_req_per_s:.2f} req/s")
    for result in sorted(row, key=share, reverse=True):
        print(
            f"  {result.policy:20} {result.goodput_req_per_s:7.3f} req/s at SLO  "
            f"{share(result):6.3f} of reachable  P99 TTFT {result.ttft_p99_s:7.1f} s  "
            f"lost {result.lost}"
        )
    auto = next((result for result in row if result.policy == "auto"), None)
    if auto is None:
        return
    best = max((r.goodput_req_per_s for r in row if r is not auto), default=0.0)
    if auto.goodput_req_per_s < 0.97 * best:
        yield f"{where}: {auto.goodput_req_per_s / best:.3f} of the best other policy"
    soonest = min((r.ttft_p99_s for r in row if r is not auto), default=inf)
    if max(auto.ttft_p99_s, soonest) <= SLO_S and auto.ttft_p99_s > 1.05 * soonest:
        yield f"{where}: P99 TTFT {auto.ttft_p99_s:.2f} s, of the best other policy {soonest:.2f} s"
    least = 0.95 if first.load <= 0.95 else 0.9
    if share(auto) < least:
        yield f"{where}: {share(auto):.3f} of what could be reached, asked for {least}"


if __name__ == "__main__":
    sys.exit(main())
