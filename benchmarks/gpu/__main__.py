"""Measurements on a machine with GPUs; the results go to build/bench/gpu.json.

    copies    pages between GPU and arena: rates, time of the model's thread (no engine needed)
    identity  answers after a hand-off beside a stock engine's, every layout, with margins, and
              with something lost on the way
    ranks     engines of one rank and of two hand over to each other, beside stock engines of one
              and of two (two GPUs)
    tuning    whether ranks that tuned kernels must be started again (two GPUs)
    choices   kernels that engines of one configuration choose apart, and whether bits follow
    tail      hand-offs that end at a block's end beside exact ones; imports beside running answers;
              prefill stock, idle and exporting
    prefill   prefill with the connector idle and exporting beside a stock engine, KV throughput
    link      the KV link over loopback with link workers, and workers killed (no GPU needed)
    faults    kill -9 of each process in mid-transfer, as the tests do it

``python -m benchmarks.gpu copies identity`` runs two of them; each replaces its own part of the
file, row by row as they come. Models to time are directories, names, or layouts of real size
without weights (layouts.py): on an H200, ``tail --model layout:kimi-linear-quarter`` and ``prefill
--modes idle exporting --kv-cache '6 GiB' --model layout:kimi-linear-48b``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Rows = Iterator[dict[str, Any]]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="+", choices=list(_PARTS))
    parser.add_argument("--output", type=Path, default=Path("build/bench/gpu.json"))
    parser.add_argument("--kinds", nargs="+", help="tiny models to compare (default: all)")
    parser.add_argument(
        "--model", nargs="+", help="models whose prefill is timed, layout:NAME for one of ours"
    )
    parser.add_argument("--modes", nargs="+", choices=("stock", "piecewise", "idle", "exporting"),
                        default=["stock", "idle", "exporting"])  # fmt: skip
    parser.add_argument("--block-tokens", type=int, default=256, help="of the tiny models' engines")
    parser.add_argument("--lengths", nargs="+", type=int, help="prompt tokens")
    parser.add_argument("--workers", nargs="+", type=int, help="numbers of link workers")
    parser.add_argument("--faults", default="killed", help="which tests, as pytest's -k takes it")
    parser.add_argument("--ranks", type=int, default=1, help="of engines whose prefill is timed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kv-cache", default="8 GiB", help="of each engine whose prefill is timed")
    parser.add_argument(
        "--engine-args", default="", help="vLLM's own, for all engines: '--enforce-eager'"
    )
    args = parser.parse_args()
    if {"prefill", "tail"} & {*args.parts} and not args.model:
        parser.error("prefill and tail need --model")
    for part in args.parts:
        rows = []
        for row in _PARTS[part](args):
            print(json.dumps(row), flush=True)
            rows.append(row)
            _store(args.output, part, rows)
    print(args.output)
    return 0


def _copies(args: argparse.Namespace) -> Rows:
    from benchmarks.gpu import copies

    return copies.measure()


def _identity(args: argparse.Namespace) -> Rows:
    from benchmarks.gpu import identity

    return identity.measure(
        args.kinds or identity.KINDS,
        args.lengths or identity.LENGTHS,
        args.block_tokens,
        args.engine_args.split(),
    )


def _choices(args: argparse.Namespace) -> Rows:
    from benchmarks.gpu import choices

    return choices.measure(args.kinds or choices.KINDS, args.engine_args.split())


def _prefill(args: argparse.Namespace) -> Rows:
    from benchmarks.gpu import prefill

    return prefill.measure(
        args.model,
        args.lengths or prefill.LENGTHS,
        args.rounds,
        modes=args.modes,
        kv_cache=args.kv_cache,
        args=args.engine_args.split(),
        ranks=args.ranks,
    )


def _ranks(args: argparse.Namespace) -> Rows:
    from benchmarks.gpu import ranks

    return ranks.measure(
        args.kinds or ranks.KINDS, args.lengths or ranks.LENGTHS, args.engine_args.split()
    )


def _tuning(args: argparse.Namespace) -> Rows:
    from benchmarks.gpu import tuning

    return tuning.measure(args.kinds or tuning.KINDS, args.engine_args.split())


def _tail(args: argparse.Namespace) -> Rows:
    from benchmarks.gpu import tail
    from benchmarks.gpu.prefill import LENGTHS

    (model,) = args.model
    return tail.measure(
        model,
        tail.LENGTHS,
        args.rounds,
        modes=args.modes,
        prefill_lengths=args.lengths or LENGTHS,
        kv_cache=args.kv_cache,
        args=args.engine_args.split(),
    )


def _link(args: argparse.Namespace) -> Rows:
    from benchmarks.gpu import link

    return link.measure(args.workers or link.WORKERS)


def _faults(args: argparse.Namespace) -> Rows:
    from benchmarks.gpu import faults

    return faults.measure(args.faults)


_PARTS: dict[str, Callable[[argparse.Namespace], Rows]] = {
    "copies": _copies,
    "identity": _identity,
    "choices": _choices,
    "ranks": _ranks,
    "tuning": _tuning,
    "prefill": _prefill,
    "link": _link,
    "faults": _faults,
    "tail": _tail,
}


def _store(output: Path, part: str, rows: list[dict[str, Any]]) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(output.read_text()) if output.exists() else {}
    output.write_text(json.dumps(known | {part: rows}, indent=1))


if __name__ == "__main__":
    raise SystemExit(main())
