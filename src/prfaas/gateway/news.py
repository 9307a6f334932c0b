"""What watchers find out of agents, lines and layouts, as the scheduler's events."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from prfaas.core.layout import KvLayout
from prfaas.gateway.agent_client import MemoryCounts
from prfaas.gateway.endpoints import Endpoints
from prfaas.gateway.metrics import GatewayMetrics
from prfaas.scheduler.events import (
    AnyEvent,
    LayoutKnown,
    LinkStateChanged,
    MachinesCut,
    MachinesJoined,
    MemoryReported,
    PairingChanged,
)


class News:
    """Each method fits a watcher's callback. ``tell``: the events go there."""

    def __init__(
        self, endpoints: Endpoints, metrics: GatewayMetrics, tell: Callable[[AnyEvent], None]
    ) -> None:
        self._endpoints = endpoints
        self._metrics = metrics
        self._tell = tell

    def link_changed(self, event: LinkStateChanged) -> None:
        """A line carries more or less than before."""
        self._metrics.link_up.labels(event.source, event.target).set(event.up)
        self._tell(event)

    def machines_changed(self, source: str, target: str, up: bool) -> None:
        """A machine has lost its way to another, or has it again."""
        self._metrics.machines_cut.labels(source, target).set(not up)
        self._tell((MachinesJoined if up else MachinesCut)(source, target))

    def layout_known(self, layout: KvLayout, engines: tuple[str, ...]) -> None:
        """Engines have registered."""
        self._tell(LayoutKnown(layout, engines))

    def pairing_changed(self, unfit: tuple[tuple[str, str], ...]) -> None:
        """Other engines fit each other than before."""
        self._tell(PairingChanged(unfit))

    def memory_counted(self, agent: str, memory: MemoryCounts) -> None:
        """An agent has more or less memory for hand-offs than before."""
        machine = self._endpoints.agents[agent].machine
        self._tell(MemoryReported(machine, *msgspec.structs.astuple(memory)))
