"""The KV link side by side with iperf3, NIXL and Mooncake over emulated lines.

    python -m benchmarks.transfer                           all rows, medians of 6
    python -m benchmarks.transfer --rows loopback,wan-1g-80ms-loss
    python -m benchmarks.transfer --quick                   two rows, 2 transfers: a minute
    python -m benchmarks.transfer --workers 0,2,4           the link with so many link workers
    python -m benchmarks.transfer --set-up                  install the peers first

Contenders take turns, twice, so that whatever else the machine does hits all of them. Writes
build/bench/transfer.json and a plot, prints ratios. CPU is seconds per GiB, both ends.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path

from benchmarks.transfer import contenders, plot, setup_peers
from benchmarks.transfer.contenders import Ends, Measured
from benchmarks.transfer.lines import QUICK_ROWS, ROWS, Row

from prfaas.testing.wan import Wan, unavailable
from prfaas.tls import authority

OUT = Path("build/bench")
_PEERS = ("iperf3", "nixl", "mooncake")


def measure(
    row: Row,
    rounds: int,
    repeats: int,
    certificates: Path,
    workers: Sequence[int | None],
    told: Callable[[str], None],
) -> Iterator[dict[str, object]]:
    """The row's results: TLS and plaintext, with each number of link workers, against the same
    peers' figures."""
    with contextlib.nullcontext(None) if row.profile is None else Wan(row.profile) as wan:
        ends = Ends(wan)
        runs: dict[str, Callable[[], Measured]] = {
            "iperf3": lambda: contenders.iperf3(ends, repeats),
            "nixl": lambda: contenders.peer(ends, repeats, "nixl"),
            "mooncake": lambda: contenders.peer(ends, repeats, "mooncake"),
        }
        for tls, count in product((True, False), workers):
            files = certificates if tls else None
            runs[_own(tls, count)] = partial(contenders.ours, ends, repeats, files, count)
        seen: dict[str, list[Measured]] = {name: [] for name in runs}
        for number in range(rounds):
            for name, run in runs.items():
                result = run()
                seen[name].append(result)
                told(f"{row.name:18} round {number + 1}/{rounds} {name:16} {_shown(result)}")
    found = {name: contenders.together(results) for name, results in seen.items()}
    peers = {name: found[name] for name in _PEERS}
    for tls, count in product((True, False), workers):
        yield as_json(row, tls, count, {"ours": found[_own(tls, count)], **peers})


def _own(tls: bool, workers: int | None) -> str:
    name = f"ours, {'TLS' if tls else 'plaintext'}"
    return name if workers is None else f"{name}, {workers} workers"


def _shown(result: Measured) -> str:
    return result.reason or f"{(result.rate or 0.0) * 8e-9:6.2f} Gbps"


def as_json(
    row: Row, tls: bool, workers: int | None, results: dict[str, Measured]
) -> dict[str, object]:
    found: dict[str, object] = {"link": row.name, "tls": tls, "workers": workers}
    for name, result in results.items():
        found[f"{name}_bytes_per_s"] = result.rate
        found[f"{name}_cpu_s_per_gib"] = result.cpu
        if result.reason is not None:
            found[f"{name}_reason"] = result.reason
    return found


def print_table(rows: list[dict[str, object]]) -> None:
    print(f"\n{'link':18} {'':12} {'ours':>10} {'/iperf3':>8} {'/NIXL':>8} {'/Mooncake':>10}  "
          "CPU s/GiB: ours iperf3 NIXL Mooncake")  # fmt: skip
    for row in rows:
        mine = row["ours_bytes_per_s"]
        cells = []
        for name in _PEERS:
            other = row[f"{name}_bytes_per_s"]
            both = isinstance(mine, float) and isinstance(other, float)
            cells.append(f"{mine / other:.2f}" if both else "-")  # type: ignore[operator]
        cpu = [row[f"{name}_cpu_s_per_gib"] for name in ("ours", *_PEERS)]
        spent = "  ".join(f"{c:.2f}" if isinstance(c, float) else "-" for c in cpu)
        speed = f"{mine * 8e-9:.2f} Gbps" if isinstance(mine, float) else "-"
        kind = "TLS" if row["tls"] else "plaintext"
        kind += "" if row["workers"] is None else f" {row['workers']}w"
        print(f"{row['link']:18} {kind:12} {speed:>10} {cells[0]:>8} {cells[1]:>8} {cells[2]:>10}"
              f"             {spent}")  # fmt: skip


def main() -> int:
    known = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(prog="benchmarks.transfer")
    parser.add_argument("--quick", action="store_true", help="two rows, 2 transfers each")
    parser.add_argument("--rows", default="", help=f"of {','.join(known)}")
    parser.add_argument("--workers", default="", help="numbers of link workers (none: by the rule)")
    parser.add_argument("--set-up", action="store_true", help="install the peers first")
    args = parser.parse_args()
    names = [name for name in args.rows.split(",") if name] or (QUICK_ROWS if args.quick else known)
    if not set(names) <= set(known):
        parser.error(f"unknown rows; known: {', '.join(known)}")
    if args.set_up:
        setup_peers.main()
    workers = [int(count) for count in args.workers.split(",") if count] or [None]
    rounds, repeats = (1, 2) if args.quick else (2, 3)
    rows: list[dict[str, object]] = []
    started = time.monotonic()

    def told(what: str) -> None:
        print(f"{time.monotonic() - started:5.0f} s  {what}", flush=True)

    with tempfile.TemporaryDirectory() as directory:
        certificates = Path(directory)
        authority.create_authority(certificates)
        for end in ("east", "west"):
            authority.issue(certificates, end)
        for row in (r for r in ROWS if r.name in names):
            if row.profile is not None and unavailable() is not None:
                told(f"{row.name:18} skipped: {unavailable()}")
                continue
            rows.extend(measure(row, rounds, repeats, certificates, workers, told))
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "transfer.json").write_text(json.dumps(rows, indent=1))
    print_table(rows)
    plot.draw(rows, OUT / "transfer.png")
    print(f"\n{OUT / 'transfer.json'}, {OUT / 'transfer.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
