"""What a chaos campaign does to a fleet: each fault begins, lasts, and is taken back.

A fault is a context manager; it is entered and left in a thread. `KINDS` has them all, with what
each may strike. Loss and reordering are what they look like above TCP: bytes late and in bursts
(`tests/integration/test_link_over_wan.py` has packets that are really lost).
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from prfaas.core.addresses import parse_address
from prfaas.testing.local_fleet import ENGINES, SOURCE, LocalFleet

DAY_S, _FILLER = 86400, "filler"
_TINY_SHM = 'mount -t tmpfs -o size=1m none /dev/shm && exec "$@"'

Struck = Iterator[None]


class Field(NamedTuple):
    """Where a campaign takes place. ``clocks``: the folder of the processes' clocks, None where
    there is no compiler; ``old``: the code of another release, None where there is none."""

    fleet: LocalFleet
    clocks: Path | None
    old: Path | None
    disk: Path | None


@contextlib.contextmanager
def killed(field: Field, name: str) -> Struck:
    """SIGKILL; started again when the fault ends."""
    field.fleet.kill(name)
    yield
    revive(field.fleet, name)


@contextlib.contextmanager
def ended(field: Field, name: str) -> Struck:
    """SIGTERM; started again when the fault ends."""
    field.fleet.kill(name, signal.SIGTERM)
    yield
    revive(field.fleet, name)


@contextlib.contextmanager
def stopped(field: Field, name: str) -> Struck:
    """SIGSTOP, then SIGCONT."""
    os.kill(field.fleet.pid(name), signal.SIGSTOP)
    yield
    os.kill(field.fleet.pid(name), signal.SIGCONT)


def _line(act: Callable[[LocalFleet, str], None]) -> Callable[..., AbstractContextManager[None]]:
    @contextlib.contextmanager
    def struck(field: Field, machine: str) -> Struck:
        act(field.fleet, machine)
        yield
        field.fleet.relays[machine].mend()

    return struck


@contextlib.contextmanager
def no_descriptors(field: Field, name: str) -> Struck:
    """Two more may be opened; what is open stays."""
    used = {int(fd) for fd in os.listdir(f"/proc/{field.fleet.pid(name)}/fd")}
    third_free = [number for number in range(len(used) + 3) if number not in used][2]
    with field.fleet.limited(name, resource.RLIMIT_NOFILE, third_free):
        yield


@contextlib.contextmanager
def full_disk(field: Field, name: str) -> Struck:
    """The journals' disk has no room; without root the process may make no file longer."""
    if field.disk is None:
        with field.fleet.limited(name, resource.RLIMIT_FSIZE, 1):
            yield
        return
    with (field.disk / _FILLER).open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 65536)
    yield
    (field.disk / _FILLER).unlink()


@contextlib.contextmanager
def full_shm(field: Field, name: str) -> Struck:
    """The agent dies, and finds no shared memory when it is started again: it must say so."""
    fleet = field.fleet
    fleet.kill(name)
    log = fleet.home / f"{name}.log"
    before = log.stat().st_size
    fleet.start(name, prefix=("unshare", "-m", "sh", "-c", _TINY_SHM, "--"))
    status = fleet.processes.pop(name).wait(60)
    said = log.read_bytes()[before:].decode(errors="replace")
    assert status != 0, "an agent that has no memory ends with 0"
    assert "/dev/shm" in said, f"an agent that has no memory does not say so: {said}"
    assert "Traceback" not in said, said
    yield
    revive(fleet, name)


@contextlib.contextmanager
def clock_jumps(field: Field, name: str, *, by_s: int = DAY_S) -> Struck:
    """The wall clock is a day ahead, then again what it was."""
    assert field.clocks is not None
    set_clock(field.clocks, name, by_s)
    yield
    set_clock(field.clocks, name, 0)


@contextlib.contextmanager
def certificates_expire(field: Field, name: str) -> Struck:
    """For one agent, whose clock is ten years ahead; its connections have to be made anew."""
    with clock_jumps(field, name, by_s=3653 * DAY_S):
        for relay in field.fleet.relays.values():
            relay.cut()
            relay.mend()
        yield


def _engine(**how: object) -> Callable[..., AbstractContextManager[None]]:
    @contextlib.contextmanager
    def struck(field: Field, engine: str) -> Struck:
        field.fleet.misbehave(engine, **how)
        yield
        well = {
            "garbage": None, "raw": None, "fail_with_status": None, "full_for_s": None,
            "lies": False, "health_status": 200, "takes_s": 0.0, "prefill_takes_s": 0.0,
        }  # fmt: skip
        field.fleet.misbehave(engine, **well)

    return struck


@contextlib.contextmanager
def half_open_clients(field: Field, gateway: str) -> Struck:
    """Forty connections that send half of a request and nothing more."""
    host, port = parse_address(field.fleet.gateways[gateway])
    said = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"
    with contextlib.ExitStack() as stack:
        for number in range(40):
            with contextlib.suppress(OSError):
                client = stack.enter_context(socket.create_connection((host, port), 2))
                client.sendall(said[: len(said) - number])
        yield


@contextlib.contextmanager
def garbage_to_agent(field: Field, name: str) -> Struck:
    """On each of its three doors, and the connections stay open."""
    fleet, machine = field.fleet, name.removesuffix("-agent")
    with contextlib.ExitStack() as stack:
        doors = [parse_address(fleet.admins[machine]), parse_address(fleet.link_address(machine))]
        for length in (1, 7, 600, 70_000):
            noise = (struct.pack("<Q", 0xF00D + length) * (length // 8 + 1))[:length]
            for door in doors:
                with contextlib.suppress(OSError):
                    client = stack.enter_context(socket.create_connection(door, 2))
                    client.sendall(noise)
            with contextlib.suppress(OSError):
                engine = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                engine.settimeout(2)
                engine.connect(str(fleet.home / f"{machine}.sock"))
                engine.sendall(noise)
        yield


@contextlib.contextmanager
def other_release(field: Field, target: str) -> Struck:
    """A gateway, or a machine's agent and engines, are of the other release for a while."""
    assert field.old is not None
    gateway = target in field.fleet.gateways
    names = (target,) if gateway else (f"{target}-agent", f"{target}-engines")
    for source in (field.old, SOURCE):
        for name in names:
            field.fleet.sources[name] = source
            field.fleet.kill(name, signal.SIGTERM)
        for name in names:
            revive(field.fleet, name)
        if source == field.old:
            yield


@contextlib.contextmanager
def full_for_ever(field: Field, _: str) -> Struck:
    """Every engine refuses whatever it is asked, also when the fault has ended."""
    for engine in ALL_ENGINES:
        field.fleet.misbehave(engine, full_for_s=1)
    yield


def revive(fleet: LocalFleet, name: str) -> None:
    """Start a process and wait until it serves: from then on it is not the cause of anything."""
    fleet.start(name)
    fleet.wait(lambda: fleet.serves(name), f"{name} serves again")


def set_clock(clocks: Path, name: str, by_s: int) -> None:
    """Seconds that a process's wall clock is ahead of the machine's."""
    with (clocks / name).open("r+b") as file:
        file.write(struct.pack("<q", by_s))


def clock_environment(clocks: Path, name: str) -> dict[str, str]:
    """What a process needs to have a clock of its own."""
    if not (clocks / name).exists():
        (clocks / name).write_bytes(struct.pack("<q", 0))
    return {"LD_PRELOAD": str(clocks / "clock.so"), "CHAOS_CLOCK": str(clocks / name)}


def make_clocks(folder: Path) -> Path | None:
    """Compile the clock; None where that cannot be done here."""
    folder.mkdir(parents=True, exist_ok=True)
    source = Path(__file__).parent / "clock.c"
    command = ["cc", "-shared", "-fPIC", "-O1", "-o", str(folder / "clock.so"), str(source), "-ldl"]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return folder


@contextlib.contextmanager
def small_disk(mib: int = 64) -> Iterator[Path | None]:
    """A file system that can be filled; None where there is no root to mount one."""
    with tempfile.TemporaryDirectory(prefix="prfaas-chaos-") as folder:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "none", folder]
        try:
            subprocess.run(mount, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            yield None
            return
        try:
            yield Path(folder)
        finally:
            for _ in range(50):
                if subprocess.run(["umount", folder], capture_output=True).returncode == 0:
                    break
                time.sleep(0.1)


AGENTS = tuple(f"{machine}-agent" for machine in ENGINES)
MACHINES = tuple(ENGINES)
ALL_ENGINES = tuple(engine for engines in ENGINES.values() for engine in engines)
SETS_OF_ENGINES = tuple(f"{machine}-engines" for machine in ENGINES)
LINES, GATEWAYS = ("w1", "w2"), ("gateway-1", "gateway-2")

Kind = tuple[Callable[..., AbstractContextManager[None]], tuple[str, ...]]

KINDS: dict[str, Kind] = {
    "kill-agent": (killed, AGENTS),
    "kill-engines": (killed, SETS_OF_ENGINES),
    "kill-gateway": (killed, GATEWAYS),
    "end-gateway": (ended, GATEWAYS),
    "stop-agent": (stopped, AGENTS),
    "stop-engines": (stopped, SETS_OF_ENGINES),
    "stop-gateway": (stopped, GATEWAYS),
    "line-cut": (_line(lambda fleet, at: fleet.relays[at].cut()), LINES),
    "line-slow": (_line(lambda fleet, at: fleet.relays[at].slow(100e3)), LINES),
    "line-half-open": (_line(lambda fleet, at: fleet.relays[at].hang()), LINES),
    "line-corrupt": (_line(lambda fleet, at: fleet.relays[at].corrupt(0.05)), LINES),
    "line-loss": (_line(lambda fleet, at: fleet.relays[at].lose(0.1)), LINES),
    "no-descriptors-agent": (no_descriptors, AGENTS),
    "no-descriptors-gateway": (no_descriptors, GATEWAYS),
    "full-disk": (full_disk, GATEWAYS),
    "full-shm": (full_shm, AGENTS),
    "clock-jump": (clock_jumps, (*AGENTS, *GATEWAYS)),
    "certificates-expire": (certificates_expire, AGENTS),
    "engine-garbage": (_engine(garbage="]{[nonsense"), ALL_ENGINES),
    "engine-no-http": (_engine(raw="\x00\xff garbage\r\n\r\n"), ALL_ENGINES),
    "engine-http-0.9": (_engine(raw="<html>it works</html>"), ALL_ENGINES),
    "engine-500": (_engine(fail_with_status=500), ALL_ENGINES),
    "engine-full": (_engine(full_for_s=1), ALL_ENGINES),
    "engine-unhealthy": (_engine(health_status=503), ALL_ENGINES),
    "engine-slow": (_engine(takes_s=2.0, prefill_takes_s=2.0), ALL_ENGINES),
    "half-open-clients": (half_open_clients, GATEWAYS),
    "garbage-to-agent": (garbage_to_agent, AGENTS),
    "other-release": (other_release, (*MACHINES, *GATEWAYS)),
}
"""By name: how, and whom it may strike."""

CONTROLS: dict[str, Kind] = {
    "engine-lies": (_engine(lies=True), ("w1-d",)),
    "full-for-ever": (full_for_ever, ("w1-d",)),
}
"""What no fleet can stand: a campaign that does not notice is worth nothing."""


def possible(field: Field, *, control: str | None = None) -> dict[str, Kind]:
    """The kinds that can be made here; one of the controls alone where that is asked for."""
    if control is not None:
        return {control: CONTROLS[control]}
    missing = set()
    if field.clocks is None:
        missing |= {"clock-jump", "certificates-expire"}
    if field.old is None:
        missing.add("other-release")
    if field.disk is None:  # No root: there is no mounting either.
        missing.add("full-shm")
    return {name: kind for name, kind in KINDS.items() if name not in missing}


def harmed_gateway(target: str) -> str:
    """The gateway that a fault at ``target`` keeps from answering, empty for none."""
    return target if target in GATEWAYS else ""
