"""A wide-area line on one machine: real kernel TCP between two network namespaces.

With netem in the kernel, a veth pair with netem on both ends; otherwise a TUN pair joined by a
small relay (`wan_relay.c`, compiled once with the system's C compiler). Either gives delay, a
bottleneck rate with a drop-tail queue, and random loss. Needs root.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from prfaas.core.errors import ConfigError

_SOURCE = Path(__file__).with_name("wan_relay.c")
_MTU = 9000
_numbers = itertools.count()


@dataclass(frozen=True)
class WanProfile:
    """One line, the same in both directions. ``queue_s``: how much the bottleneck buffers."""

    rate_bytes_per_s: float
    rtt_s: float
    loss: float = 0.0
    queue_s: float = 0.05


@cache
def unavailable() -> str | None:
    """Why no line can be emulated here, or None if it can."""
    if os.geteuid() != 0:
        return "needs root"
    if shutil.which("ip") is None:
        return "needs the ip command (package iproute2)"
    if _has_netem():
        return None
    if not Path("/dev/net/tun").exists():
        return "the kernel has neither netem nor TUN"
    if _compiler() is None:
        return "the kernel has no netem, and there is no C compiler for the relay"
    return None


class Wan:
    """A line between namespaces ``a`` and ``b``; a context manager.

    ``addresses`` are the IPv4 addresses of the two ends, ``devices`` their network devices. Without
    ``between``, which names two namespaces that are there, it makes both and takes them away again.
    """

    def __init__(
        self, profile: WanProfile, *, seed: int = 1, between: tuple[str, str] | None = None
    ) -> None:
        reason = unavailable()
        if reason is not None:
            raise ConfigError(f"no wide-area line can be emulated here: {reason}")
        self._profile, self._seed = profile, seed
        number = next(_numbers)
        tag = f"{os.getpid()}-{number}"
        self.namespaces = between or (f"prfaas-a-{tag}", f"prfaas-b-{tag}")
        self._own = between is None
        self.devices = (f"pfa{os.getpid() % 10**7}x{number}", f"pfb{os.getpid() % 10**7}x{number}")
        net = f"10.{200 + os.getpid() % 50}.{number % 250}"
        self.addresses = (f"{net}.1", f"{net}.2")
        self._relay: subprocess.Popen[str] | None = None

    def __enter__(self) -> Wan:
        try:
            if self._own:
                for namespace in self.namespaces:
                    add_namespace(namespace)
            if _has_netem():
                self._join_with_netem()
            else:
                self._join_with_relay()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def command(self, side: int, arguments: Sequence[str]) -> list[str]:
        """The command line that runs ``arguments`` in namespace 0 or 1."""
        return ["ip", "netns", "exec", self.namespaces[side], *arguments]

    def popen(self, side: int, arguments: Sequence[str], **how: Any) -> subprocess.Popen[Any]:
        """Start a process at one end of the line."""
        return subprocess.Popen(self.command(side, arguments), **how)

    def close(self) -> None:
        """Take the line down; processes in its namespaces lose it."""
        if self._relay is not None:
            self._relay.kill()
            self._relay.communicate()
            self._relay = None
        if not self._own:
            with contextlib.suppress(ConfigError):  # A relay's devices go with it.
                ip("-n", self.namespaces[0], "link", "del", self.devices[0])
            return
        for namespace in self.namespaces:
            with contextlib.suppress(ConfigError):
                ip("netns", "del", namespace)

    def _join_with_relay(self) -> None:
        profile = self._profile
        arguments = [
            str(_compiled_relay()),
            *self.devices,
            str(round(profile.rtt_s / 2 * 1e6)),
            str(profile.rate_bytes_per_s),
            str(profile.loss),
            str(round(profile.rate_bytes_per_s * profile.queue_s)),
            str(self._seed),
        ]
        self._relay = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        assert self._relay.stdout is not None
        if self._relay.stdout.readline().strip() != "ready":
            raise ConfigError("the relay could not make its TUN devices")
        for namespace, device in zip(self.namespaces, self.devices, strict=True):
            ip("link", "set", device, "netns", namespace)
        self._configure()

    def _join_with_netem(self) -> None:
        first, second = self.devices
        ip("link", "add", first, "netns", self.namespaces[0], "type", "veth",
            "peer", second, "netns", self.namespaces[1])  # fmt: skip
        self._configure()
        profile = self._profile
        packets = profile.rate_bytes_per_s * (profile.rtt_s / 2 + profile.queue_s) / _MTU
        for namespace, device in zip(self.namespaces, self.devices, strict=True):
            _run("tc", "-n", namespace, "qdisc", "add", "dev", device, "root", "netem",
                 "delay", f"{profile.rtt_s / 2 * 1e3:.3f}ms", "loss", f"{profile.loss * 100}%",
                 "rate", f"{profile.rate_bytes_per_s * 8:.0f}bit",
                 "limit", str(max(int(packets), 10)))  # fmt: skip

    def _configure(self) -> None:
        ends = zip(self.namespaces, self.devices, self.addresses, strict=True)
        for namespace, device, address in ends:
            ip("-n", namespace, "addr", "add", f"{address}/24", "dev", device)
            ip("-n", namespace, "link", "set", device, "mtu", str(_MTU), "up")


@cache
def _has_netem() -> bool:
    if shutil.which("tc") is None:
        return False
    probe = f"prfaas-probe-{os.getpid()}"
    try:
        ip("netns", "add", probe)
    except ConfigError:
        return False
    try:
        ip("-n", probe, "link", "set", "lo", "up")
        _run("tc", "-n", probe, "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms")
    except ConfigError:
        return False
    else:
        return True
    finally:
        ip("netns", "del", probe)


def _compiler() -> str | None:
    return next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)


@cache
def _compiled_relay() -> Path:
    """The relay's program, compiled on first use and kept by the hash of its source."""
    digest = hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:16]
    program = Path(tempfile.gettempdir()) / f"prfaas-wan-relay-{os.geteuid()}-{digest}"
    if program.exists() and program.stat().st_uid == os.geteuid():
        return program
    compiler = _compiler()
    assert compiler is not None
    with tempfile.TemporaryDirectory() as scratch:
        built = Path(scratch) / "wan_relay"
        _run(compiler, "-O2", "-o", str(built), str(_SOURCE), "-lpthread")
        shutil.move(built, program)
    return program


def add_namespace(name: str) -> None:
    """A network namespace whose loopback is up."""
    ip("netns", "add", name)
    ip("-n", name, "link", "set", "lo", "up")


def ip(*arguments: str) -> None:
    """The command of that name. Raises ConfigError with what it said."""
    _run("ip", *arguments)


def _run(*arguments: str) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise ConfigError(f"{' '.join(arguments)}: {said}")
