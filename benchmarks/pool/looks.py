"""Looks at transfers while others change them: is one that is there ever seen as unknown?

    python -m benchmarks.pool.looks [--looks 10000000] [--readers 2]

Prints one JSON object; exit status 1 if any look was wrong or too few were made. The load is
`prfaas.testing.pool_stress`.
"""

from __future__ import annotations

import argparse
import json
import sys

from prfaas.testing.pool_stress import all_right, stress


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--looks", type=int, default=10_000_000)
    parser.add_argument("--readers", type=int, default=2)
    options = parser.parse_args()
    sys.setswitchinterval(1e-5)  # threads change places as often as they can
    seen, writes, seconds = stress(options.looks, options.readers)
    made = seen.total()
    result = {"looks": made, "seen": dict(seen), "writes": writes, "seconds": round(seconds, 1)}
    print(json.dumps(result, indent=2))
    return 0 if made >= options.looks and writes and all_right(seen) else 1


if __name__ == "__main__":
    raise SystemExit(main())
