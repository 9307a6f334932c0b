"""Agents' link states as the scheduler's `LinkStateChanged`, sent only when something changed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from prfaas.core.errors import LinkError
from prfaas.gateway.agent_client import AgentClient
from prfaas.gateway.endpoints import ClusterEndpoint, Endpoints
from prfaas.gateway.upstream_errors import LocalFault
from prfaas.link.api import LinkState
from prfaas.scheduler.events import LinkStateChanged

logger = logging.getLogger(__name__)

_RETRY_S = 1.0
_SATURATED = 0.5
"""Congestion from which on the goodput is taken for all the line can carry."""


class LinkWatch:
    """Follows the agent of one cluster. ``on_change`` gets an event per line that changed."""

    def __init__(
        self,
        cluster: ClusterEndpoint,
        endpoints: Endpoints,
        agent: AgentClient,
        on_change: Callable[[LinkStateChanged], None],
    ) -> None:
        self._cluster = cluster.name
        self._agent = agent
        self._on_change = on_change
        self._targets = {
            other.agent: other.name
            for other in endpoints.clusters
            if (cluster.name, other.name) in endpoints.links
        }
        self._last: dict[str, LinkStateChanged] = {}

    async def run(self) -> None:
        """Follow, for ever; a lost agent is a lost link. Returns if the cluster sends nowhere."""
        while self._targets:
            try:
                async for states in self._agent.link_states():
                    for state in states:
                        self._take(state)
            except LocalFault as error:
                logger.warning("%s", error)
            except LinkError as error:
                self._lost(str(error))
            await asyncio.sleep(_RETRY_S)

    def _take(self, state: LinkState) -> None:
        target = self._targets.get(state.peer)
        if target is not None:
            self._tell(link_event(self._cluster, target, state))

    def _lost(self, why: str) -> None:
        for target in self._targets.values():
            self._tell(LinkStateChanged(self._cluster, target, up=False), why)

    def _tell(self, event: LinkStateChanged, why: str = "no connection") -> None:
        last = self._last.get(event.target)
        if last == event:
            return
        self._last[event.target] = event
        if last is None or last.up != event.up:
            if event.up:
                logger.info("link %s to %s is up", event.source, event.target)
            else:
                logger.warning("link %s to %s is down: %s", event.source, event.target, why)
        self._on_change(event)


def link_event(source: str, target: str, state: LinkState) -> LinkStateChanged:
    """One state, rounded so that noise is no change."""
    rate = state.limit_bytes_per_s
    if state.congestion >= _SATURATED and state.goodput_bytes_per_s > 0:
        rate = min(rate or state.goodput_bytes_per_s, state.goodput_bytes_per_s)
    return LinkStateChanged(
        source,
        target,
        up=state.connections > 0,
        rate_bytes_per_s=None if rate is None else float(f"{rate:.2g}"),
        utilisation=round(state.utilisation, 1),
        congestion=round(state.congestion, 1),
        rtt_s=float(f"{state.rtt_s:.2g}"),
    )
