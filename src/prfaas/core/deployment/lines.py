"""Which agents send KV cache to which, and what they share: the lines of a deployment.

A *line* is what there is between two clusters, in one direction; a PD cluster of several machines
has one to itself as well, its own network. The agents of the machines at both ends form its pairs:
a KV link for each. What the file says of a link (rate, connections) is said of the line.
Connections are divided here among its pairs; the agents divide the rate by what they have to send.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from prfaas.core.deployment.agents import AgentConfig
from prfaas.core.deployment.clusters import ClusterConfig, LanConfig
from prfaas.core.deployment.links import LinkConfig
from prfaas.core.deployment.model import Deployment

MOST_CONNECTIONS = 64
"""Of one pair of agents; and of a line whose file does not say how many, all pairs together, as far
as there are not more pairs: each needs one."""


class AgentPair(NamedTuple):
    """Two agents by name: one sends to the other."""

    sender: str
    receiver: str


def way_in_words(source: str, target: str) -> str:
    """A line's two ends, for people."""
    return f"from {source} to {target}" if source != target else f"between machines of {source}"


class Line(msgspec.Struct, frozen=True):
    """One direction of a line. ``source`` is ``target`` for a cluster's own network.

    ``senders`` and ``receivers`` are the agents of machines that have engines. Which of these
    prefill and which decode may change in a PD cluster while it runs. Rate and connections are of
    all pairs together.
    """

    source: str
    target: str
    senders: tuple[AgentConfig, ...]
    receivers: tuple[AgentConfig, ...]
    rate_bytes_per_s: float | None = None
    leave_to_others: float = 0.0
    connections: int | None = None
    via: str | dict[str, str] | None = None

    @property
    def pairs(self) -> tuple[AgentPair, ...]:
        """Everyone at one end with everyone at the other; no agent with itself."""
        return tuple(
            AgentPair(a.name, b.name) for a in self.senders for b in self.receivers if a is not b
        )

    @property
    def fair_connections(self) -> int | None:
        """How many one pair has, where the file says how many; None: the link chooses, up to
        `most_connections`."""
        if self.connections is None:
            return None
        return min(MOST_CONNECTIONS, self.connections // max(1, len(self.pairs)))

    @property
    def most_connections(self) -> int:
        """How many one pair may have where the link chooses."""
        return max(1, MOST_CONNECTIONS // max(1, len(self.pairs)))

    def address_of(self, receiver: AgentConfig) -> str:
        """``host:port`` at which a sender reaches ``receiver``."""
        if self.via is None:
            return receiver.link_address
        if isinstance(self.via, str):
            return self.via
        return self.via.get(receiver.name, receiver.link_address)


def lines_of(deployment: Deployment) -> tuple[Line, ...]:
    """Every line over which something could be sent: links of the file, then clusters' own."""
    return (*(_between(deployment, k) for k in deployment.links), *_inside(deployment))


def _between(deployment: Deployment, link: LinkConfig) -> Line:
    source, target = deployment.cluster(link.source), deployment.cluster(link.target)
    return _line(source, target, link, via=link.via)


def _inside(deployment: Deployment) -> Iterator[Line]:
    for cluster in deployment.clusters:
        if cluster.kind == "pd" and len(cluster.machines) > 1:
            line = _line(cluster, cluster, cluster.lan)
            if line.pairs:
                yield line


def _line(
    source: ClusterConfig,
    target: ClusterConfig,
    config: LinkConfig | LanConfig,
    *,
    via: str | dict[str, str] | None = None,
) -> Line:
    return Line(
        source.name,
        target.name,
        tuple(m.agent for m in source.machines if m.engines),
        tuple(m.agent for m in target.machines if m.engines),
        config.rate_bytes_per_s,
        config.leave_to_others,
        config.connections,
        via,
    )
