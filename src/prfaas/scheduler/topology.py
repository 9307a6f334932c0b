"""What the scheduler schedules on: clusters, engines, lines. It changes as a whole
(`TopologyChanged`)."""

from __future__ import annotations

import msgspec

from prfaas.core.deployment import ClusterKind, Deployment, EngineRole, lines_of


class EngineSpec(msgspec.Struct, frozen=True):
    """``max_requests``: how many decodes it is given at a time; ``max_prefills``: how many prefills
    (None: as many); ``changes_role``: whether it can do the work of both roles; ``kv_tokens``: how
    many tokens of prompts and answers its KV memory holds, where that is known; ``machine``: of
    its cluster, on which hand-offs cross no network."""

    name: str
    cluster: str
    role: EngineRole
    max_requests: int = 32
    max_prefills: int | None = None
    changes_role: bool = True
    kv_tokens: float | None = None
    machine: str = ""
    up: bool = True
    """Whether it counts as up before the first EngineUp or EngineDown."""


class ClusterSpec(msgspec.Struct, frozen=True):
    """One cluster of a topology."""

    name: str
    kind: ClusterKind


class LinkSpec(msgspec.Struct, frozen=True):
    """One direction of a line; a cluster's own network, between its machines, is its line to
    itself. ``rate_bytes_per_s``: None where nothing limits it."""

    source: str
    target: str
    rate_bytes_per_s: float | None = None
    rtt_s: float = 0.0


class Topology(msgspec.Struct, frozen=True):
    """``alignment_tokens``: hand-offs end at multiples of it (`KvLayout.alignment_tokens`); None:
    not known yet, and nothing is handed over until `LayoutKnown`. ``near``: the PD cluster that
    answers are best given from; None: any."""

    clusters: tuple[ClusterSpec, ...]
    engines: tuple[EngineSpec, ...]
    links: tuple[LinkSpec, ...]
    alignment_tokens: int | None
    near: str | None = None

    @property
    def cluster_of(self) -> dict[str, str]:
        """Engine -> cluster."""
        return {engine.name: engine.cluster for engine in self.engines}


def topology_of(
    deployment: Deployment, *, alignment_tokens: int | None, up: bool = True
) -> Topology:
    """The topology of a deployment file; ``up``: whether engines count as up from the start. An
    engine of a PD cluster can do the work of both roles, unless it runs micro-batches: then it
    cannot export."""
    return Topology(
        clusters=tuple(ClusterSpec(c.name, c.kind) for c in deployment.clusters),
        engines=tuple(
            EngineSpec(
                e.name,
                c.name,
                e.role,
                e.max_num_seqs,
                changes_role=c.kind == "pd" and not e.micro_batches,
                machine=m.name,
                up=up,
            )
            for c in deployment.clusters
            for m in c.machines
            for e in m.engines
        ),
        links=tuple(
            LinkSpec(line.source, line.target, line.rate_bytes_per_s)
            for line in lines_of(deployment)
        ),
        alignment_tokens=alignment_tokens,
        near=deployment.gateway.near,
    )
