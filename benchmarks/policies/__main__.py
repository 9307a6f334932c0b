"""All policies on trace files and drawn workloads: ``python -m benchmarks.policies [TRACE ...]``.

Prints a table, writes build/bench/policies.json and a plot. Cells are kept in
build/bench/policies.jsonl as they are done: a run that was ended goes on where it was, as long as
the package and what is asked are the same. Exits 1 where *auto* has less than 0.97 of the goodput
of the best other policy, less than 0.95 of what could be reached up to 95% load, or less than 0.9
of it above that, or a P99 of the time to first token above 1.05 of the best other policy's where
both meet the SLO, or lost a request that it had not refused.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from hashlib import sha256
from math import inf
from pathlib import Path

import msgspec
from benchmarks.policies.cells import DRAWN, Cell, Result, has_blocks, measure
from benchmarks.policies.picture import draw, share
from benchmarks.simulator.scenarios import EXAMPLES

import prfaas
from prfaas.policies.registry import POLICIES
from prfaas.sim.parallel import cores, end_with_parent

OUT = Path(__file__).resolve().parents[2] / "build" / "bench"
KEPT = OUT / "policies.jsonl"
LOADS = (0.6, 0.8, 0.95, 1.2)
SLO_S = 10.0
"""Of the time to first token, as in the deployment that is simulated."""


def main() -> int:
    """The exit status."""
    arguments = _parser().parse_args()
    traces = [str(path) for path in arguments.traces] + ([] if arguments.no_drawn else [*DRAWN])
    cells = list(_cells(traces, arguments))
    OUT.mkdir(parents=True, exist_ok=True)
    results = _measured(cells, arguments.processes)
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
    parser.add_argument("--processes", type=int, default=cores())
    return parser


def _cells(traces: Sequence[str], arguments: argparse.Namespace) -> Iterator[Cell]:
    count = arguments.requests
    for trace in traces:
        for caches in (False, True) if has_blocks(trace, count) else (False,):
            for drops in (False, True):
                for load in arguments.loads:
                    for policy in arguments.policies:
                        yield Cell(trace, count, load, caches, drops, policy)


def _measured(cells: Sequence[Cell], processes: int) -> list[Result]:
    """In order; those that are known are not simulated again."""
    package = _package()
    known = {cell: result for by, cell, result in _kept() if by == package}
    missing = [cell for cell in cells if cell not in known]
    begun = time.monotonic()
    context = multiprocessing.get_context("spawn")
    with (
        KEPT.open("ab") as file,
        ProcessPoolExecutor(processes, mp_context=context, initializer=end_with_parent) as pool,
    ):
        futures = {pool.submit(measure, cell): cell for cell in missing}
        for done, future in enumerate(as_completed(futures), 1):
            cell, result = futures[future], future.result()
            known[cell] = result
            file.write(msgspec.json.encode((package, cell, result)) + b"\n")
            file.flush()
            if done % 20 == 0 or sys.stderr.isatty():
                left = (time.monotonic() - begun) / done * (len(missing) - done)
                print(f"{done}/{len(missing)} cells, {left / 60:.0f} min left", file=sys.stderr)
    return [known[cell] for cell in cells]


def _kept() -> Iterator[tuple[str, Cell, Result]]:
    if KEPT.exists():
        for line in KEPT.read_bytes().splitlines():
            with suppress(msgspec.DecodeError):  # The last line of a run that was killed.
                yield msgspec.json.decode(line, type=tuple[str, Cell, Result])


def _package() -> str:
    """What results depend on beside the cell: the package, the benchmark and the deployment."""
    digest = sha256()
    here = Path(__file__).resolve().parent
    for folder, pattern in ((Path(prfaas.__file__).parent, "*.py"), (here, "*.py")):
        for path in sorted(folder.rglob(pattern)):
            digest.update(path.read_bytes())
    digest.update((EXAMPLES / "trace.yaml").read_bytes())
    return digest.hexdigest()[:16]


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
            f"refused {result.refused}, lost {result.lost}"
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
    if auto.lost:
        yield f"{where}: {auto.lost} requests lost that were not refused"
    least = 0.95 if first.load <= 0.95 else 0.9
    if share(auto) < least:
        yield f"{where}: {share(auto):.3f} of what could be reached, asked for {least}"


if __name__ == "__main__":
    sys.exit(main())
