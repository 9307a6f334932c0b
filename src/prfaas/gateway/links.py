"""Agents' link states as the scheduler's `LinkStateChanged`, sent only when something changed.

The scheduler knows lines: a pair of clusters, or a cluster's own network. An agent tells of its
links: to each agent it sends to. `LineStates` sums those of a line.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from statistics import median

from prfaas.core.deployment import AgentPair, way_in_words
from prfaas.core.errors import LinkError
from prfaas.gateway.agent_client import AgentClient
from prfaas.gateway.endpoints import Endpoints
from prfaas.gateway.upstream_errors import LocalFault
from prfaas.link.api import LinkState
from prfaas.policies.line_rate import LEAST_BYTES_PER_S
from prfaas.scheduler.events import LinkStateChanged

logger = logging.getLogger(__name__)

_RETRY_S = 1.0
_SATURATED = 0.5
"""Congestion from which on the goodput is taken for all the line can carry, while bytes wait. A
line on which nothing is sent says nothing of it, however long its last round trips were."""


class LineStates:
    """What agents last said of each line.

    Args:
        on_change: gets an event per line that changed.
        on_pair: of a line with several pairs of machines that is up, told which machine has lost
            its way to another (False), or has it again (True).
    """

    def __init__(
        self,
        endpoints: Endpoints,
        *,
        on_change: Callable[[LinkStateChanged], None],
        on_pair: Callable[[str, str, bool], None],
    ) -> None:
        self._on_change, self._on_pair = on_change, on_pair
        self._endpoints = endpoints
        self._machine_of: dict[str, str] = {}
        self._line_of: dict[AgentPair, tuple[str, str]] = {}
        self._states: dict[tuple[str, str], dict[AgentPair, LinkState | None]] = {}
        """By pair; None where its sender cannot be asked, absent until it was heard of."""
        self._last: dict[tuple[str, str], LinkStateChanged] = {}
        self._cut: dict[tuple[str, str], set[AgentPair]] = {}
        self.reshaped()

    def reshaped(self) -> None:
        """Lines or machines joined or left. What is known of those that stay is kept, but told
        again: the scheduler may have made the line anew."""
        self._machine_of |= {name: a.machine for name, a in self._endpoints.agents.items()}
        self._line_of = {
            pair: (line.source, line.target)
            for line in self._endpoints.lines
            for pair in line.pairs
        }
        known, self._states = self._states, {line: {} for line in self._line_of.values()}
        for line, states in self._states.items():
            states.update((p, s) for p, s in known.get(line, {}).items() if p in self._line_of)
        cut, self._cut = self._cut, {line: set() for line in self._states}
        for line, pairs in cut.items():
            for pair in pairs:
                if pair in self._line_of:
                    self._cut[line].add(pair)
                else:  # No line is between them: nor is it cut.
                    sender, receiver = (self._machine_of[agent] for agent in pair)
                    self._on_pair(sender, receiver, True)
        self._last.clear()

    def sends(self, agent: str) -> bool:
        """Whether a line begins at this agent."""
        return any(pair.sender == agent for pair in self._line_of)

    def warnings(self) -> list[str]:
        """Lines over which nothing can be sent, or that nobody has spoken of yet."""
        return [
            f"no KV can travel {way_in_words(*line)}"
            for line, states in self._states.items()
            if not any(state is not None and state.connections for state in states.values())
        ]

    def take(self, sender: str, states: Iterable[LinkState]) -> None:
        """What an agent says of all its links."""
        touched = {}
        for state in states:
            pair = AgentPair(sender, state.peer)
            line = self._line_of.get(pair)
            if line is not None:
                self._states[line][pair] = state
                touched[line] = "no connection"
        self._tell(touched)

    def lost(self, sender: str, why: str) -> None:
        """The agent cannot be asked: its links count as down."""
        touched = {}
        for pair, line in self._line_of.items():
            if pair.sender == sender:
                self._states[line][pair] = None
                touched[line] = why
        self._tell(touched)

    def _tell(self, lines: dict[tuple[str, str], str]) -> None:
        for line, why in lines.items():
            states = self._states[line]
            event = link_event(*line, [state for state in states.values() if state is not None])
            if event.up:
                self._tell_pairs(line, states)
            last = self._last.get(line)
            if last == event:
                continue
            self._last[line] = event
            if last is None or last.up != event.up:
                if event.up:
                    logger.info("link %s to %s is up", event.source, event.target)
                else:
                    logger.warning("link %s to %s is down: %s", event.source, event.target, why)
            self._on_change(event)

    def _tell_pairs(self, line: tuple[str, str], states: dict[AgentPair, LinkState | None]) -> None:
        """Of a line that is up, which of its pairs are not."""
        cut = {pair for pair, state in states.items() if state is None or not state.connections}
        for pair in sorted(cut ^ self._cut[line]):
            joined = pair not in cut
            if joined:
                logger.info("agent %s reaches %s again", *pair)
            else:
                logger.warning("agent %s does not reach %s", *pair)
            sender, receiver = (self._machine_of[agent] for agent in pair)
            self._on_pair(sender, receiver, joined)
        self._cut[line] = cut


async def watch_links(agent: AgentClient, lines: LineStates) -> None:
    """Follow one agent, for ever; a lost agent is lost links."""
    while True:
        if not lines.sends(agent.name):  # It may once the deployment has changed.
            await asyncio.sleep(_RETRY_S)
            continue
        try:
            async for states in agent.link_states():
                lines.take(agent.name, states)
        except LocalFault as error:
            logger.warning("%s", error)
        except LinkError as error:
            lines.lost(agent.name, str(error))
        await asyncio.sleep(_RETRY_S)


def link_event(source: str, target: str, states: Sequence[LinkState]) -> LinkStateChanged:
    """A line's links summed, rounded so that noise is no change. Those without a connection count
    for nothing."""
    up = [state for state in states if state.connections > 0]
    if not up:
        return LinkStateChanged(source, target, up=False)
    limits = [state.limit_bytes_per_s for state in up if state.limit_bytes_per_s is not None]
    limit = sum(limits) if len(limits) == len(up) else None
    goodput = sum(state.goodput_bytes_per_s for state in up)
    # They share the line: where it is full for one, it has no room for the others either.
    congestion = max(state.congestion for state in up)
    rate = limit
    if congestion >= _SATURATED and any(state.queued_bytes > 0 for state in up):
        carried = max(goodput, LEAST_BYTES_PER_S)
        rate = min(rate or carried, carried)
    if rate:
        rate = max(rate, LEAST_BYTES_PER_S)
    utilisation = max(state.utilisation for state in up)
    if limit and len(up) > 1:
        utilisation = min(1.0, goodput / limit)
    return LinkStateChanged(
        source,
        target,
        up=True,
        rate_bytes_per_s=None if rate is None else float(f"{rate:.2g}"),
        utilisation=round(utilisation, 1),
        congestion=round(congestion, 1),
        rtt_s=float(f"{median(state.rtt_s for state in up):.2g}"),
    )
