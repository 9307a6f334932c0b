"""Where every process of a deployment is now: each tells it, and reads where the others are.

It keeps nothing on disk. Every process tells once a second where it is, so a board that is started
anew knows everything again at once.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import TypeVar

import msgspec

from prfaas.core.deployment import (
    AgentConfig,
    Deployment,
    EngineConfig,
    GatewayConfig,
    MachineConfig,
)

_SILENT_S = 10.0
"""A process that tells nothing for so long is not there: it, or its node, has died."""

_Part = TypeVar("_Part", AgentConfig, EngineConfig, GatewayConfig)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a process tells of itself. ``fields``: what it fills into its entry of the deployment
    file; ``unused``: engines that a gateway gives no work."""

    node: str
    fields: dict[str, str]
    ready: bool = False
    unused: list[str] = []


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a process. ``ends``: how often it has ended without having been ready in
    between; ``why``: its last words, or what keeps it from starting."""

    node: str | None
    ready: bool
    ends: int
    why: str
    unused: list[str] = []


class Board:
    """What the processes of one deployment have told and may know.

    Args:
        deployment: JSON of the file, with everything but addresses.
        processes: names of those that are placed.
    """

    def __init__(
        self,
        deployment: bytes,
        processes: list[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._base = msgspec.json.decode(deployment, type=Deployment)
        self._processes = processes
        self._clock = clock
        self._known: dict[str, Report] = {}
        self._heard_at: dict[str, float] = {}
        self._ends: dict[str, int] = {}
        self._why: dict[str, str] = {}
        self._version, self._text = "", b""

    def tell(self, name: str, report: bytes, known: str) -> tuple[str, bytes]:
        """``name`` is there now. Returns the version of the deployment file and, where it is not
        ``known`` already, the file; both empty until every process has told where it is."""
        now = msgspec.json.decode(report, type=Report)
        before = self._known.get(name)
        self._known[name] = now
        self._heard_at[name] = self._clock()
        if now.ready:
            self._ends.pop(name, None)
            self._why.pop(name, None)
        if before is None or before.fields != now.fields:
            self._compose()
        return self._version, b"" if self._version == known else self._text

    def fields(self, name: str) -> dict[str, str]:
        """Where it was when it told last: one that is started again there stays where others look
        for it."""
        return self._known[name].fields if name in self._known else {}

    def trouble(self, name: str, why: str, *, ended: bool) -> int:
        """``name`` has ended, or cannot start. Returns how often it ended since it was ready."""
        self._why[name] = why
        self._heard_at.pop(name, None)
        if ended:
            self._ends[name] = self._ends.get(name, 0) + 1
        return self._ends.get(name, 0)

    def standings(self) -> bytes:
        """JSON of a `Standing` by name, of every process that is placed."""
        return msgspec.json.encode({name: self._standing(name) for name in self._processes})

    def base(self) -> bytes:
        """The file as it was given."""
        return msgspec.json.encode(self._base)

    def deployment(self) -> bytes:
        """The file as it is now; empty until it is whole."""
        return self._text

    def _standing(self, name: str) -> Standing:
        report, heard_at = self._known.get(name), self._heard_at.get(name)
        there = heard_at is not None and self._clock() - heard_at <= _SILENT_S
        return Standing(
            node=report.node if report is not None and there else None,
            ready=report is not None and there and report.ready,
            ends=self._ends.get(name, 0),
            why=self._why.get(name, ""),
            unused=report.unused if report is not None else [],
        )

    def _compose(self) -> None:
        if not self._known.keys() >= set(self._processes):
            return
        whole = self._base.with_machines(self._machine).with_gateways(self._filled)
        text = msgspec.json.format(msgspec.json.encode(whole))
        # A digest: a board that is started anew counts from nowhere.
        self._version, self._text = hashlib.sha256(text).hexdigest(), text

    def _machine(self, machine: MachineConfig) -> MachineConfig:
        return msgspec.structs.replace(
            machine,
            agent=self._filled(machine.agent),
            engines=tuple(self._filled(engine) for engine in machine.engines),
        )

    def _filled(self, part: _Part) -> _Part:
        return msgspec.structs.replace(part, **self.fields(part.name))
