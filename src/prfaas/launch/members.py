"""Finds the pods of a deployment by their names, and keeps its file as they are."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from prfaas.core.deployment import Deployment
from prfaas.core.errors import ConfigError
from prfaas.render.membership import Presence, Template, expand, parse_template

logger = logging.getLogger(__name__)

_AT_ONCE = 32
"""Names that are resolved at a time."""
_NAMES_PER_S = 25
"""In the long run: every pod asks for the names of all, and the resolver is one."""
_NO_SUCH_NAME = frozenset({socket.EAI_NONAME, socket.EAI_NODATA})

Resolve = Callable[[str], Awaitable[list[str] | None]]
"""A host name to its addresses: none where there is no such name, None where nobody could say."""


async def resolve(host: str) -> list[str] | None:
    """By the system's resolver."""
    loop = asyncio.get_running_loop()
    try:
        # With its last dot no search domain is tried behind it.
        found = await loop.getaddrinfo(f"{host}.", None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        return [] if error.errno in _NO_SUCH_NAME else None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Members:
    """Looks who is there, and writes ``out`` when that has changed.

    Args:
        own_pod: the pod that this runs in, if it is one of a group.
        own_address: that pod's address: its agent listens on addresses of its kind.
        own_gateway: the address of the gateway that reads the file, if one does.
        own_service: the headless Service that this gateway is behind; None: the template's first.
    """

    def __init__(
        self,
        template: Path,
        out: Path,
        *,
        own_pod: str | None = None,
        own_address: str | None = None,
        own_gateway: str | None = None,
        own_service: str | None = None,
        leave_after_s: float = 60.0,
        resolver: Resolve = resolve,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._out = template, out
        self._own_pod, self._own_gateway = own_pod, own_gateway
        self._on_ipv6 = ":" in (own_address or "")
        self._own_service = own_service
        self._leave_after_s, self._resolve, self._clock = leave_after_s, resolver, clock
        self._text = b""
        self._known: tuple[Template, Presence] | None = None
        self._gateways: dict[str, list[str]] = {}
        self._written: Deployment | None = None

    async def look(self) -> bool:
        """Once; returns whether the file was written. Raises ConfigError for a bad template."""
        template, presence = self._read()
        wanted = presence.wanted()
        services = [group.service for group in template.gateways]
        gate = asyncio.Semaphore(_AT_ONCE)

        async def ask(host: str) -> list[str] | None:
            async with gate:
                return await self._resolve(host)

        answers = await asyncio.gather(
            *(ask(host) for _, _, host in wanted), *(ask(service) for service in services)
        )
        found = {
            (group, number): None if addresses is None else bool(addresses)
            for (group, number, _), addresses in zip(wanted, answers, strict=False)
        }
        presence.look(found, now=self._clock())
        for service, addresses in zip(services, answers[len(wanted) :], strict=True):
            if addresses is not None:
                self._gateways[service] = addresses
        return self._write(template, presence)

    async def run(self, *, period_s: float) -> None:
        """For ever. A template that is refused, once there was a good one, changes nothing."""
        while True:
            try:
                await self.look()
            except ConfigError as error:
                if self._written is None:
                    raise
                logger.error("%s: the file stays as it is", error)
            await asyncio.sleep(self.pause_s(period_s))

    def pause_s(self, period_s: float) -> float:
        """Until the next look: longer than ``period_s`` where there are many names."""
        names = 0 if self._known is None else len(self._known[1].wanted())
        return max(period_s, names / _NAMES_PER_S)

    def _read(self) -> tuple[Template, Presence]:
        text = self._path.read_bytes()
        if self._known is None or text != self._text:
            template = parse_template(text, source=str(self._path))
            presence = Presence(
                template,
                leave_after_s=self._leave_after_s,
                own=self._own_pod,
                before=None if self._known is None else self._known[1],
            )
            self._known, self._text = (template, presence), text
        return self._known

    def _write(self, template: Template, presence: Presence) -> bool:
        gateways = dict(self._gateways)
        own = self._own_gateway
        if own is not None and not any(own in found for found in gateways.values()):
            # Not ready yet, and so without a name: it is there all the same.
            service = self._own_service or template.gateways[0].service
            gateways[service] = [own, *gateways.get(service, [])]
        members = presence.members()
        deployment = expand(template, members, gateways, own=own, on_ipv6=self._on_ipv6)
        if deployment == self._written:
            return False
        scratch = self._out.with_name(f"{self._out.name}.new")
        scratch.write_bytes(msgspec.json.format(msgspec.json.encode(deployment)))
        os.replace(scratch, self._out)
        self._written = deployment
        machines = ", ".join(machine.name for machine in deployment.machines)
        logger.info("members: %s; gateways: %d", machines, len(deployment.gateways))
        return True
