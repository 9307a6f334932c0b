"""What watchers find out of agents, lines and layouts, as the scheduler's events."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from prfaas.core.gateway_sessions import Decided, EngineShare
from prfaas.core.layout import KvLayout
from prfaas.gateway.endpoints import Endpoints
from prfaas.gateway.metrics import GatewayMetrics
from prfaas.gateway.registered_ranks import MemoryCounts
from prfaas.scheduler.events import (
    AnyEvent,
    DecisionsTold,
    EngineShared,
    LayoutKnown,
    LeadBegun,
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
        self._decided: Decided | None = None
        self._shares: dict[str, EngineShared] = {}

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

    def shares_told(self, shares: Mapping[str, EngineShare]) -> None:
        """An agent has said what this gateway may have of its engines."""
        engines = self._endpoints.engines
        if len(self._shares) > len(engines):  # One that comes back is told of anew.
            self._shares = {n: share for n, share in self._shares.items() if n in engines}
        for name, share in shares.items():
            event = EngineShared(
                name,
                share.decode,
                share.prefill,
                float(f"{share.others_queued_s:.2g}"),
                share.others_kv_tokens,
                share.others_prefills,
            )
            lasts = not event.others_queued_s and not event.others_prefills
            if name not in engines or (lasts and self._shares.get(name) == event):
                continue
            self._shares[name] = event
            self._tell(event)

    def decided(self, decided: Decided | None) -> None:
        """What the gateway that leads has decided; None: this one leads."""
        if decided != self._decided:
            self._decided = decided
            if decided is None:
                self._tell(LeadBegun())
            else:
                self._tell(DecisionsTold(decided.roles, decided.thresholds))

    def memory_counted(self, agent: str, memory: MemoryCounts) -> None:
        """An agent has more or less memory for hand-offs than before."""
        machine = self._endpoints.agents[agent].machine
        self._tell(MemoryReported(machine, *msgspec.structs.astuple(memory)))
