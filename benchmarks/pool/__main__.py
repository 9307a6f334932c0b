"""What the pool saves: first tokens after a restart, conversations beside other caches, rates.

    python -m benchmarks.pool [--parts restart conversations rates disk] [--models gdn]
        [--trace mooncake.jsonl.gz]

Writes build/bench/pool.json; each part replaces what was there of it.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.pool import hits
from benchmarks.pool.conversations import Conversations, drawn, from_trace
from benchmarks.pool.systems import NAMES, OURS, NotStarted, Size, started
from benchmarks.pool.talks import talk

from prfaas.core.deployment import Deployment

OUTPUT = Path("build/bench/pool.json")
PARTS = ("restart", "conversations", "rates", "disk")
SIZES = {
    "gdn": Size("gdn", "24 MiB", "256 MiB", 8192),
    "dense": Size("dense", "48 MiB", "512 MiB", 8192),
}
"""Each engine's cache holds a quarter of the conversations or so, the pool all of them."""


def conversations(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each model and system, as it is known."""
    asked = _asked(args)
    for kind in args.models:
        model: Deployment | None = None
        for name in args.systems:
            row: dict[str, Any] = {"model": f"tiny:{kind}", "system": name}
            began = time.monotonic()
            try:
                with (
                    tempfile.TemporaryDirectory() as home,
                    started(name, SIZES[kind], model, Path(home)) as system,
                ):
                    model = system.deployment or model
                    assert model is not None
                    row |= talk(system, asked, block_tokens=model.model.block_tokens)
            except NotStarted as error:
                row["not_run"] = str(error)
            row["with_start_s"] = time.monotonic() - began
            print(_line(row), flush=True)
            yield row


def _asked(args: argparse.Namespace) -> Conversations:
    if args.trace is not None:
        return from_trace(
            args.trace, seed=args.seed, requests=args.requests, block=64, longest=6000
        )
    return drawn(seed=args.seed, sessions=args.sessions, turns=args.turns, system=2048,
                 question=512, answer=48)  # fmt: skip


def _line(row: dict[str, Any]) -> str:
    head = f"{row['model']:>12} {row['system']:>20}:"
    if "not_run" in row:
        return f"{head} not run: {row['not_run']}"
    share = row["share_of_unbounded"]
    return (
        f"{head} hits {row['hit_tokens']} of {row['prompt_tokens']} tokens"
        f"{'' if share is None else f' ({share:.1%} of an unbounded cache)'}, "
        f"TTFT {row['ttft_median_s'] * 1e3:.0f} ms (p90 {row['ttft_p90_s'] * 1e3:.0f}), "
        f"prefill {row['prefill_s']:.1f} s"
    )


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--models", nargs="+", choices=list(SIZES), default=["gdn"])
    parser.add_argument("--systems", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--trace", type=Path, help="ask this trace's first requests instead")
    parser.add_argument("--disk", type=Path, default=Path("build"), help="on the disk to measure")
    parser.add_argument("--requests", type=int, default=40, help="so many of the trace")
    parser.add_argument("--sessions", type=int, default=12)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.systems[0] not in OURS:
        parser.error(f"--systems: begin with one of {', '.join(OURS)}")
    found = json.loads(OUTPUT.read_text()) if OUTPUT.exists() else {}
    found = {part: found[part] for part in PARTS if part in found}
    found |= {"cores": os.cpu_count()}
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    for part in args.parts:
        if part == "restart":
            found[part] = hits.measured("tiny:gdn", [2000, 8000, 16000], rounds=3)
        elif part == "conversations":
            found[part] = {"asked": _asked(args).source, "rows": []}
            for one in conversations(args):
                found[part]["rows"].append(one)
                OUTPUT.write_text(json.dumps(found, indent=2))
        elif part == "disk":
            from benchmarks.pool import disk

            found[part] = disk.measured(args.disk)
        else:
            from benchmarks.pool import rates

            found[part] = rates.measured()
        OUTPUT.write_text(json.dumps(found, indent=2))
    print(f"written to {OUTPUT}")


if __name__ == "__main__":
    main()
