"""A full pool under churn for minutes: do its books agree at every step, does its memory grow?

    python -m benchmarks.pool.churn [--minutes 10] [--seed 1]

No engine, disk or clock: conversations come, are loaded, pinned, copied, evicted, written to a disk
and read back, engines die, the agent begins anew with what is on disk
(`prfaas.testing.pool_churn`), as fast as the machine does it. Writes build/bench/pool-churn.json;
ends with 1 where the books disagree, or memory at the end is a tenth above what it was after the
first tenth of the time.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import sys
import time
from pathlib import Path

from prfaas.testing.pool_churn import Churn

OUTPUT = Path("build/bench/pool-churn.json")
_MOST_GROWTH = 1.1


def resident_bytes() -> int:
    """Of this process, now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    churn, began, steps = Churn(args.seed), time.monotonic(), 0
    sizes: list[int] = []
    for tenth in range(1, 11):
        until = began + tenth * args.minutes * 6
        while time.monotonic() < until:
            churn.step()
            steps += 1
        sizes.append(resident_bytes())
        print(f"{tenth * 10:>3}%: {steps} steps, {sizes[-1] / 1e6:.1f} MB resident", flush=True)
    churn.end()
    found = {
        "minutes": args.minutes,
        "seed": args.seed,
        "steps": steps,
        "done": dict(churn.done),
        "evicted": churn.evicted,
        "resident_bytes": sizes,
        "growth": sizes[-1] / sizes[0],
    }
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(found, indent=2))
    print(f"every step's books agree; memory grew {found['growth']:.3f}-fold; {OUTPUT}")
    sys.exit(found["growth"] > _MOST_GROWTH)


if __name__ == "__main__":
    main()
