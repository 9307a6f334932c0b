"""Runs each contender's two ends over a line and measures goodput and CPU time.

Ours, NIXL's and Mooncake's ends are scripts of their own that speak JSON lines: the receiver says
where it listens, the sender when it is warm, how long each transfer took, and when it is done.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.transfer import setup_peers, workload

from prfaas.testing.wan import Wan

HERE = Path(__file__).parent
_TIMEOUT_S = 300


@dataclass(frozen=True)
class Measured:
    """Goodput of each transfer and CPU seconds per GiB of both ends; or why there is none."""

    bytes_per_s: tuple[float, ...] = ()
    cpu_s_per_gib: tuple[float, ...] = field(default=())
    reason: str | None = None

    @property
    def rate(self) -> float | None:
        return statistics.median(self.bytes_per_s) if self.bytes_per_s else None

    @property
    def cpu(self) -> float | None:
        return statistics.median(self.cpu_s_per_gib) if self.cpu_s_per_gib else None


def together(rounds: Iterable[Measured]) -> Measured:
    """All transfers of a contender's rounds; a reason only where none succeeded."""
    rounds = list(rounds)
    rates = tuple(rate for one in rounds for rate in one.bytes_per_s)
    cpu = tuple(used for one in rounds for used in one.cpu_s_per_gib)
    reasons = [one.reason for one in rounds if one.reason is not None]
    return Measured(rates, cpu, reasons[0] if reasons and not rates else None)


class Ends:
    """Starts commands at both ends of a line: 0 sends, 1 receives."""

    def __init__(self, wan: Wan | None) -> None:
        self._wan = wan
        self.hosts = wan.addresses if wan is not None else ("127.0.0.1", "127.0.0.1")

    def start(self, side: int, command: list[str]) -> subprocess.Popen[str]:
        full = self._wan.command(side, command) if self._wan is not None else command
        return subprocess.Popen(
            full, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )


def following(process: subprocess.Popen[str], *wanted: str) -> dict[str, object]:
    """The next of the wanted events an end reports. Raises RuntimeError with its last words."""
    assert process.stdout is not None
    for line in process.stdout:
        with contextlib.suppress(json.JSONDecodeError):
            said = json.loads(line)
            if isinstance(said, dict) and said.get("event") in wanted:
                return said
    process.wait()
    assert process.stderr is not None
    last = process.stderr.read().strip().splitlines()[-1:] or ["no message"]
    raise RuntimeError(f"ended with status {process.returncode}: {last[0][:300]}")


def ours(ends: Ends, repeats: int, certificates: Path | None, workers: int | None) -> Measured:
    directory = None if certificates is None else str(certificates)
    options = {"certs": directory, "workers": workers}
    return _pair(ends, [sys.executable, str(HERE / "ours.py")], repeats, options)


def peer(ends: Ends, repeats: int, name: str) -> Measured:
    """NIXL or Mooncake."""
    reason = setup_peers.missing(name)
    if reason is not None:
        return Measured(reason=reason)
    command = [str(setup_peers.interpreter(name)), str(HERE / f"{name}_end.py")]
    return _pair(ends, command, repeats, {})


def iperf3(ends: Ends, repeats: int) -> Measured:
    """``iperf3 -P 8`` moving the same bytes, with the congestion control we use."""
    rates, cpu = [], []
    for _ in range(repeats):
        try:
            said = _iperf3_once(ends)
        except (OSError, StopIteration, ValueError, subprocess.TimeoutExpired) as error:
            return Measured(reason=f"iperf3: {error}")
        if "error" in said:
            return Measured(reason=str(said["error"]))
        rates.append(said["end"]["sum_received"]["bits_per_second"] / 8)
        use = said["end"]["cpu_utilization_percent"]
        seconds = said["end"]["sum_sent"]["seconds"]
        spent_s = (use["host_total"] + use["remote_total"]) / 100 * seconds
        cpu.append(spent_s / (workload.TOTAL_BYTES / 1024**3))
    return Measured(tuple(rates), tuple(cpu))


def _iperf3_once(ends: Ends):  # type: ignore[no-untyped-def]
    server = ends.start(1, ["iperf3", "--server", "--one-off", "--forceflush"])
    try:
        assert server.stdout is not None
        next(line for line in server.stdout if "listening" in line)
        client = ends.start(0, [
            "iperf3", "--client", ends.hosts[1], "--parallel", "8", "--json",
            "--bytes", str(workload.TOTAL_BYTES), "--congestion", _congestion_control(),
        ])  # fmt: skip
        return json.loads(client.communicate(timeout=_TIMEOUT_S)[0])
    finally:
        server.kill()
        server.communicate()


def _congestion_control() -> str:
    known = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text()
    return "bbr" if re.search(r"\bbbr\b", known) else "cubic"


def _pair(ends: Ends, command: list[str], repeats: int, options: dict[str, object]) -> Measured:
    west = [*command, "receive", json.dumps({**options, "host": ends.hosts[1]})]
    receiver = ends.start(1, west)
    try:
        address = following(receiver, "listening")["address"]
        more = {"address": address, "own_host": ends.hosts[0], "repeats": repeats}
        sender = ends.start(0, [*command, "send", json.dumps({**options, **more})])
        try:
            return _follow(sender, receiver)
        finally:
            sender.kill()
            sender.communicate()
    except (RuntimeError, ValueError) as error:
        return Measured(reason=str(error))
    finally:
        receiver.kill()
        receiver.communicate()


def _follow(sender: subprocess.Popen[str], receiver: subprocess.Popen[str]) -> Measured:
    warm = float(str(following(sender, "warm")["cpu_s"])) + cpu_of(receiver.pid)
    rates: list[float] = []
    while True:
        said = following(sender, "transfer", "done")
        if said["event"] == "done":
            used = float(str(said["cpu_s"])) + cpu_of(receiver.pid) - warm
            break
        rates.append(workload.TOTAL_BYTES / float(str(said["seconds"])))
    gib = len(rates) * workload.TOTAL_BYTES / 1024**3
    return Measured(tuple(rates), (used / gib,) if rates else ())


def cpu_of(pid: int) -> float:
    """Of a process and those that it has started and that live."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return own_s + sum(cpu_of(child) for child in _children(pid))


def _children(pid: int) -> list[int]:
    """By their parent's id: not every kernel has ``task/*/children``."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found
