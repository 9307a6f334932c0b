"""A line whose rate four sending machines share, in network namespaces with real kernel TCP.

    python -m benchmarks.line_budget [--rate-gbps 1] [--receivers 1] [--seconds 10]
        [--congestion-control bbr|cubic] [--loss 1e-5]

All four send; then one stops, then two more, so that one alone has the line; then all send again.
Measured is what receivers have stored, over every second (windows of 1 s, ten a second), and after
each stop how long until the others have what the idle machine had. Needs root. Writes
build/bench/line_budget.json.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.line_budget.ends import BIN_S
from numpy.typing import NDArray

from prfaas.link.protocol.line_share import PLEDGE_S
from prfaas.testing.sites import Sites
from prfaas.testing.wan import WanProfile

_PATH = Path("build/bench/line_budget.json")
_SENDERS = ("e1", "e2", "e3", "e4")
_PHASES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("all four", _SENDERS),
    ("three", _SENDERS[:3]),
    ("one", _SENDERS[:1]),
    ("all four again", _SENDERS),
)
_SETTLE_S = 1.0
"""What a phase is given before its seconds are judged, from the last byte of those that stopped;
the change itself is judged apart."""
_WINDOW_S = 0.2
"""For how long the line must be full to count as full again."""
_TAKEN = 0.97


class Machine:
    """One end, as a process in its namespace."""

    def __init__(self, sites: Sites, role: str, options: dict[str, Any]) -> None:
        name = options["name"]
        options = {**options, "host": sites.address(name)}
        command = [sys.executable, "-m", "benchmarks.line_budget.ends", role, json.dumps(options)]
        how: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = sites.popen(name, command, **how)
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()

    def say(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()

    def end(self) -> str:
        """What it says last."""
        return self._process.communicate(timeout=60)[0]


def run(args: argparse.Namespace) -> tuple[list[float], dict[str, dict[int, int]]]:
    """When each phase began, and the bytes by sender and bin."""
    receivers = [f"w{number + 1}" for number in range(args.receivers)]
    machines, lines = {"east": [*_SENDERS, *receivers]}, {}
    if args.rtt_ms:
        machines = {"east": list(_SENDERS), "west": receivers}
        profile = WanProfile(args.room * args.rate_gbps * 125e6, args.rtt_ms / 1e3, args.loss)
        lines = {("east", "west"): profile}
    options = {"rate": args.rate_gbps * 125e6, "senders": _SENDERS, "receivers": receivers}
    options["congestion_control"] = args.congestion_control
    with contextlib.ExitStack() as stack:
        sites = stack.enter_context(Sites(machines, lines))
        takers = {n: Machine(sites, "receive", {**options, "name": n}) for n in receivers}
        addresses = {name: machine.address for name, machine in takers.items()}
        givers = {
            name: Machine(sites, "send", {**options, "name": name, "addresses": addresses})
            for name in _SENDERS
        }
        began, going = [], set[str]()
        for _, busy in _PHASES:
            for name in _SENDERS:
                if (name in busy) != (name in going):
                    givers[name].say("go" if name in busy else "stop")
            began.append(time.monotonic())
            going = set(busy)
            time.sleep(args.seconds)
        began.append(time.monotonic())
        for giver in givers.values():
            giver.end()
        total: dict[str, dict[int, int]] = {}
        for taker in takers.values():
            for name, bins in json.loads(taker.end().splitlines()[-1]).items():
                for number, count in bins.items():
                    mine = total.setdefault(name, {})
                    mine[int(number)] = mine.get(int(number), 0) + count
    return began, total


def judge(began: list[float], total: dict[str, dict[int, int]], rate: float) -> dict[str, Any]:
    """The figures of one run."""
    first, last = int(began[0] / BIN_S), int(began[-1] / BIN_S)
    series = {
        name: np.array([total[name].get(number, 0) for number in range(first, last)], float)
        for name in _SENDERS
    }
    summed = np.sum(list(series.values()), axis=0)
    seconds = _windows(summed, 1.0) / rate
    found: dict[str, Any] = {"most_of_rate_in_any_second": round(float(seconds.max()), 4)}
    for number, (name, busy) in enumerate(_PHASES):
        idle = set(_PHASES[number - 1][1]) - set(busy) if number else set()
        start, end = began[number] - began[0], began[number + 1] - began[0]
        # A process that starts begins with the least there is, from when it is connected.
        changed = _silent_at(series, idle, start) if number else _all_there_at(series) + PLEDGE_S
        start = changed + _SETTLE_S
        inside = seconds[int(start / BIN_S) : int((end - 1.0) / BIN_S)]
        found[name] = {
            "senders": len(busy),
            "least_of_rate": round(float(inside.min()), 4),
            "most_of_rate": round(float(inside.max()), 4),
        }
        if idle:
            found[name]["taken_over_s"] = round(_taken_after(summed / rate, changed), 2)
    return found


def _windows(bins: NDArray[np.float64], seconds: float) -> NDArray[np.float64]:
    """Per second, over each span of that many seconds."""
    width = round(seconds / BIN_S)
    sums = np.concatenate([[0.0], np.cumsum(bins)])
    return (sums[width:] - sums[:-width]) / seconds


def _all_there_at(series: dict[str, NDArray[np.float64]]) -> float:
    """When the first byte of the last to start came."""
    return max(float(np.flatnonzero(bins)[0]) for bins in series.values()) * BIN_S


def _silent_at(series: dict[str, NDArray[np.float64]], idle: set[str], stopped_s: float) -> float:
    """When the last byte came of those that were told to stop."""
    start = silent = int(stopped_s / BIN_S)
    for name in idle:
        sent = np.flatnonzero(series[name][start : start + 400])
        silent = max(silent, start + (int(sent[-1]) if sent.size else 0))
    return silent * BIN_S


def _taken_after(of_rate: NDArray[np.float64], silent_s: float) -> float:
    """From then until the line is full again, and stays so for `_WINDOW_S`."""
    full = np.flatnonzero(_windows(of_rate, _WINDOW_S)[round(silent_s / BIN_S) :] >= _TAKEN)
    return float(full[0] * BIN_S) if full.size else float("inf")


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rate-gbps", type=float, default=1.0)
    parser.add_argument("--room", type=float, default=1.3, help="the line carries so many times it")
    parser.add_argument(
        "--rtt-ms", type=float, default=20.0, help="0: on one switch, which takes less of the CPU"
    )
    parser.add_argument("--loss", type=float, default=0.0, help="of packets, at random")
    parser.add_argument("--receivers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each phase")
    parser.add_argument(
        "--congestion-control",
        help="of the kernel's; as the product chooses where it is left out. bbr stops for 0.2 s "
        "about every 10 s to measure the line's delay",
    )
    args = parser.parse_args()
    began, total = run(args)
    found = judge(began, total, args.rate_gbps * 125e6)
    found |= {"rate_gbps": args.rate_gbps, "rtt_ms": args.rtt_ms, "receivers": args.receivers}
    found["congestion_control"] = args.congestion_control or "as chosen"
    found["loss"] = args.loss
    found["cores"] = os.cpu_count()
    found["load_average"] = round(os.getloadavg()[0], 2)
    for key, value in itertools.chain(found.items()):
        print(f"{key}: {value}")
    _PATH.parent.mkdir(parents=True, exist_ok=True)
    _PATH.write_text(json.dumps(found, indent=2) + "\n")
    print(f"written to {_PATH}")


if __name__ == "__main__":
    main()
