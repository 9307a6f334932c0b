"""Sites of several machines on one computer: a network namespace each, real kernel TCP.

The machines of a site share a bridge; lines (`wan.Wan`) join the routers of sites, so that all
machines of two sites share what the line carries. A management network leads from this computer's
own namespace to every machine, as an operator's would: gateways and tests reach agents and engines
over it also while a line is cut. Needs root.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, Self

from prfaas.core.errors import ConfigError
from prfaas.testing.wan import Wan, WanProfile, add_namespace, ip

_NUMBERS = 100
"""Of addresses: as many may stand at once on this computer, in whatever processes."""


class Sites:
    """A context manager.

    Args:
        machines: site -> names of its machines.
        lines: (site, site) -> the line between them, in both directions.
    """

    def __init__(
        self,
        machines: Mapping[str, Sequence[str]],
        lines: Mapping[tuple[str, str], WanProfile],
    ) -> None:
        self._cleanup = contextlib.ExitStack()
        self._number = self._claim()
        self._tag = f"{os.getpid() % 10**5}x{self._number}"
        self._machines = machines
        self._sites = {site: index for index, site in enumerate(machines, 1)}
        every = [(site, name) for site, names in machines.items() for name in names]
        self._places = {name: (site, index) for index, (site, name) in enumerate(every, 1)}
        self._profiles = lines
        self.lines: dict[tuple[str, str], Wan] = {}

    def address(self, machine: str) -> str:
        """IPv4 address at which machines of all sites reach this one."""
        site, index = self._places[machine]
        return f"10.{100 + self._number}.{self._sites[site]}.{index}"

    def management_address(self, machine: str) -> str:
        """IPv4 address at which this computer's own namespace reaches it."""
        return f"10.{100 + self._number}.{100 + self._places[machine][1]}.2"

    def namespace(self, machine: str) -> str:
        """The name of its network namespace."""
        return f"prfaas-{machine}-{self._tag}"

    def popen(self, machine: str, command: Sequence[str], **how: Any) -> subprocess.Popen[Any]:
        """Start a process on a machine; its pid is the command's own."""
        return subprocess.Popen(["ip", "netns", "exec", self.namespace(machine), *command], **how)

    def __enter__(self) -> Self:
        try:
            for site in self._sites:
                self._add_router(site)
            for machine in self._places:
                self._add_machine(machine)
            for (one, other), profile in self._profiles.items():
                self._join(one, other, profile)
        except BaseException:
            self._cleanup.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def _claim(self) -> int:
        """A number that nobody has: a name in the kernel is held as long as the sites stand."""
        for number in range(_NUMBERS):
            claim = socket.socket(socket.AF_UNIX)
            try:
                claim.bind(f"\0prfaas-sites-{number}")
            except OSError:
                claim.close()
                continue
            self._cleanup.callback(claim.close)
            return number
        raise ConfigError(f"{_NUMBERS} groups of sites stand on this computer; end some")

    def _router(self, site: str) -> str:
        return f"prfaas-router-{site}-{self._tag}"

    def _subnet(self, site: str) -> str:
        return f"10.{100 + self._number}.{self._sites[site]}"

    def _add(self, namespace: str) -> None:
        add_namespace(namespace)
        self._cleanup.callback(_without_complaint, "netns", "del", namespace)

    def _add_router(self, site: str) -> None:
        router = self._router(site)
        self._add(router)
        ip("-n", router, "link", "add", "lan", "type", "bridge")
        ip("-n", router, "addr", "add", f"{self._subnet(site)}.254/24", "dev", "lan")
        ip("-n", router, "link", "set", "lan", "up")
        ip("netns", "exec", router, "sysctl", "-qw", "net.ipv4.ip_forward=1")

    def _add_machine(self, machine: str) -> None:
        site, index = self._places[machine]
        namespace, router = self.namespace(machine), self._router(site)
        self._add(namespace)
        ip("link", "add", "lan", "netns", namespace, "type", "veth",
           "peer", f"m{index}", "netns", router)  # fmt: skip
        ip("-n", router, "link", "set", f"m{index}", "master", "lan", "up")
        ip("-n", namespace, "addr", "add", f"{self.address(machine)}/24", "dev", "lan")
        ip("-n", namespace, "link", "set", "lan", "up")
        ip("-n", namespace, "route", "add", "default", "via", f"{self._subnet(site)}.254")
        ours = f"pfm{self._tag}-{index}"[:15]
        ip("link", "add", ours, "type", "veth", "peer", "mgmt", "netns", namespace)
        self._cleanup.callback(_without_complaint, "link", "del", ours)
        theirs = self.management_address(machine)
        ip("addr", "add", f"{theirs[:-1]}1/24", "dev", ours)
        ip("link", "set", ours, "up")
        ip("-n", namespace, "addr", "add", f"{theirs}/24", "dev", "mgmt")
        ip("-n", namespace, "link", "set", "mgmt", "up")

    def _join(self, one: str, other: str, profile: WanProfile) -> None:
        ends = self._router(one), self._router(other)
        line = self.lines[one, other] = Wan(profile, between=ends)
        self._cleanup.enter_context(line)
        near, far = line.addresses
        ip("-n", ends[0], "route", "add", f"{self._subnet(other)}.0/24", "via", far)
        ip("-n", ends[1], "route", "add", f"{self._subnet(one)}.0/24", "via", near)


def _without_complaint(*arguments: str) -> None:
    with contextlib.suppress(ConfigError):  # It is gone already.
        ip(*arguments)
