"""The KV link side by side with iperf3, NIXL and Mooncake over emulated lines.

    python -m benchmarks.transfer                           all rows, medians of 5
    python -m benchmarks.transfer --rows loopback,wan-1g-80ms-loss
    python -m benchmarks.transfer --quick                   two rows, 2 transfers: a minute
    python -m benchmarks.transfer --set-up                  install the peers first

Writes build/bench/transfer.json and a plot, prints ratios. CPU is seconds per GiB, both ends.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.transfer import plot, setup_peers, workload

from prfaas.core.units import parse_duration, parse_rate
from prfaas.testing.wan import Wan, WanProfile, unavailable
from prfaas.transfer.tcp import certs

HERE = Path(__file__).parent
OUT = Path("build/bench")
_TIMEOUT_S = 300


@dataclass(frozen=True)
class Row:
    name: str
    profile: WanProfile | None


def _wan(name: str, rate: str, rtt: str, loss: float = 0.0) -> Row:
    return Row(name, WanProfile(parse_rate(rate), parse_duration(rtt), loss))


ROWS = (
    Row("loopback", None),
    _wan("wan-1g-2ms", "1 Gbps", "2 ms"),
    _wan("wan-1g-30ms", "1 Gbps", "30 ms"),
    _wan("wan-3g-30ms-loss", "3 Gbps", "30 ms", 1e-5),
    _wan("wan-1g-80ms-loss", "1 Gbps", "80 ms", 1e-4),
)
QUICK_ROWS = ("loopback", "wan-1g-30ms")


@dataclass(frozen=True)
class Measured:
    """Median goodput and CPU seconds per GiB of both ends; or why there is none."""

    bytes_per_s: float | None = None
    cpu_s_per_gib: float | None = None
    reason: str | None = None


class Ends:
    """Runs commands at both ends of a row's line."""

    def __init__(self, wan: Wan | None) -> None:
        self._wan = wan
        self.hosts = wan.addresses if wan is not None else ("127.0.0.1", "127.0.0.1")

    def start(self, side: int, command: list[str]) -> subprocess.Popen[str]:
        full = self._wan.command(side, command) if self._wan is not None else command
        return subprocess.Popen(
            full, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )


def pair(ends: Ends, command: list[str], repeats: int, options: dict[str, object]) -> Measured:
    """Run a contender's receiver and sender; both speak JSON lines."""
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
    warm = float(str(following(sender, "warm")["cpu_s"])) + _cpu_of(receiver.pid)
    seconds: list[float] = []
    while True:
        said = following(sender, "transfer", "done")
        if said["event"] == "done":
            used = float(str(said["cpu_s"])) + _cpu_of(receiver.pid) - warm
            break
        seconds.append(float(str(said["seconds"])))
    gib = len(seconds) * workload.TOTAL_BYTES / 1024**3
    return Measured(workload.TOTAL_BYTES / statistics.median(seconds), used / gib)


def following(process: subprocess.Popen[str], *wanted: str) -> dict[str, object]:
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


def _cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ours(ends: Ends, repeats: int, certificates: Path | None) -> Measured:
    directory = None if certificates is None else str(certificates)
    return pair(ends, [sys.executable, str(HERE / "ours.py")], repeats, {"certs": directory})


def peer(ends: Ends, repeats: int, name: str) -> Measured:
    reason = setup_peers.missing(name)
    if reason is not None:
        return Measured(reason=reason)
    command = [str(setup_peers.interpreter(name)), str(HERE / f"{name}_end.py")]
    return pair(ends, command, repeats, {})


def iperf3(ends: Ends, repeats: int) -> Measured:
    """``iperf3 -P 8`` moving the same bytes, with the congestion control we use."""
    rates, cpu = [], []
    for _ in range(repeats):
        server = ends.start(1, ["iperf3", "--server", "--one-off", "--forceflush"])
        try:
            assert server.stdout is not None
            next(line for line in server.stdout if "listening" in line)
            client = ends.start(0, [
                "iperf3", "--client", ends.hosts[1], "--parallel", "8", "--json",
                "--bytes", str(workload.TOTAL_BYTES), "--congestion", congestion_control(),
            ])  # fmt: skip
            said = json.loads(client.communicate(timeout=_TIMEOUT_S)[0])
        except (OSError, StopIteration, subprocess.TimeoutExpired) as error:
            return Measured(reason=f"iperf3: {error}")
        finally:
            server.kill()
            server.communicate()
        if "error" in said:
            return Measured(reason=said["error"])
        rates.append(said["end"]["sum_received"]["bits_per_second"] / 8)
        use = said["end"]["cpu_utilization_percent"]
        seconds = said["end"]["sum_sent"]["seconds"]
        cpu.append((use["host_total"] + use["remote_total"]) / 100 * seconds)
    per_gib = statistics.median(cpu) / (workload.TOTAL_BYTES / 1024**3)
    return Measured(statistics.median(rates), per_gib)


def congestion_control() -> str:
    known = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text()
    return "bbr" if re.search(r"\bbbr\b", known) else "cubic"


def measure(row: Row, repeats: int, certificates: Path) -> Iterator[dict[str, object]]:
    """The row's two results: TLS and plaintext, against the same peers' figures."""
    line = contextlib.nullcontext(None) if row.profile is None else Wan(row.profile)
    with line as wan:
        ends = Ends(wan)
        peers: dict[str, Callable[[], Measured]] = {
            "iperf3": lambda: iperf3(ends, repeats),
            "nixl": lambda: peer(ends, repeats, "nixl"),
            "mooncake": lambda: peer(ends, repeats, "mooncake"),
        }
        found = {name: _told(row, name, run()) for name, run in peers.items()}
        for tls in (True, False):
            what = "ours, TLS" if tls else "ours, plaintext"
            result = _told(row, what, ours(ends, repeats, certificates if tls else None))
            yield as_json(row, tls, {"ours": result, **found})


def _told(row: Row, what: str, result: Measured) -> Measured:
    rate = "-" if result.bytes_per_s is None else f"{result.bytes_per_s * 8e-9:.2f} Gbps"
    print(f"  {row.name:18} {what:16} {rate:>12}  {result.reason or ''}", flush=True)
    return result


def as_json(row: Row, tls: bool, results: dict[str, Measured]) -> dict[str, object]:
    found: dict[str, object] = {"link": row.name, "tls": tls}
    for name, result in results.items():
        found[f"{name}_bytes_per_s"] = result.bytes_per_s
        found[f"{name}_cpu_s_per_gib"] = result.cpu_s_per_gib
        if result.reason is not None:
            found[f"{name}_reason"] = result.reason
    return found


def print_table(rows: list[dict[str, object]]) -> None:
    print(f"\n{'link':18} {'':9} {'ours':>10} {'/iperf3':>8} {'/NIXL':>8} {'/Mooncake':>10}  "
          "CPU s/GiB: ours iperf3 NIXL Mooncake")  # fmt: skip
    for row in rows:
        mine = row["ours_bytes_per_s"]
        cells = []
        for name in ("iperf3", "nixl", "mooncake"):
            other = row[f"{name}_bytes_per_s"]
            both = isinstance(mine, float) and isinstance(other, float)
            cells.append(f"{mine / other:.2f}" if both else "-")  # type: ignore[operator]
        cpu = [row[f"{name}_cpu_s_per_gib"] for name in ("ours", "iperf3", "nixl", "mooncake")]
        spent = "  ".join(f"{c:.2f}" if isinstance(c, float) else "-" for c in cpu)
        speed = f"{mine * 8e-9:.2f} Gbps" if isinstance(mine, float) else "-"
        kind = "TLS" if row["tls"] else "plaintext"
        print(f"{row['link']:18} {kind:9} {speed:>10} {cells[0]:>8} {cells[1]:>8} {cells[2]:>10}"
              f"             {spent}")  # fmt: skip


def main() -> int:
    known = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(prog="benchmarks.transfer")
    parser.add_argument("--quick", action="store_true", help="two rows, 2 transfers each")
    parser.add_argument("--rows", default="", help=f"of {','.join(known)}")
    parser.add_argument("--set-up", action="store_true", help="install the peers first")
    args = parser.parse_args()
    names = [name for name in args.rows.split(",") if name] or (QUICK_ROWS if args.quick else known)
    if not set(names) <= set(known):
        parser.error(f"unknown rows; known: {', '.join(known)}")
    if args.set_up:
        setup_peers.main()
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as directory:
        certificates = Path(directory)
        certs.create_authority(certificates)
        for end in ("east", "west"):
            certs.issue(certificates, end)
        for row in (r for r in ROWS if r.name in names):
            if row.profile is not None and unavailable() is not None:
                print(f"  {row.name}: skipped, {unavailable()}")
                continue
            rows.extend(measure(row, 2 if args.quick else 5, certificates))
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "transfer.json").write_text(json.dumps(rows, indent=1))
    print_table(rows)
    plot.draw(rows, OUT / "transfer.png")
    print(f"\n{OUT / 'transfer.json'}, {OUT / 'transfer.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
