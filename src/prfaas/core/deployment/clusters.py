"""Clusters and their machines."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from prfaas.core.deployment.agents import AgentConfig
from prfaas.core.deployment.engines import EngineConfig, EngineRole, ProcessName
from prfaas.core.planned import PlannedCluster
from prfaas.core.strict import Strict
from prfaas.core.units import parse_rate

ClusterKind = Literal["prfaas", "pd"]


class MachineConfig(Strict, frozen=True):
    """One machine: an agent, and the engines that share its memory.

    The machine of the short form (a cluster's own ``agent`` and ``engines``) has the cluster's
    name.
    """

    name: ProcessName
    agent: AgentConfig
    engines: tuple[EngineConfig, ...] = ()

    def has(self, role: EngineRole) -> bool:
        """Whether one of its engines has this role."""
        return any(engine.role == role for engine in self.engines)


class LanConfig(Strict, frozen=True):
    """The KV link between the machines of one PD cluster. ``rate``, ``leave_to_others`` and
    ``connections`` mean what they mean for a link between clusters."""

    rate: str | None = None
    leave_to_others: Annotated[float, msgspec.Meta(ge=0, le=0.9)] = 0.0
    connections: Annotated[int, msgspec.Meta(ge=1)] | None = None

    @property
    def rate_bytes_per_s(self) -> float | None:
        """Payload bytes per second, None: as fast as the network goes. Raises ConfigError."""
        return None if self.rate is None else parse_rate(self.rate)


class ClusterConfig(PlannedCluster, frozen=True, kw_only=True):
    """Machines in one place. A PrfaaS cluster only prefills; a PD cluster can serve alone. What is
    only planned has ``instances`` and no machine."""

    name: ProcessName
    kind: ClusterKind
    machines: tuple[MachineConfig, ...] = ()
    lan: LanConfig = LanConfig()

    @property
    def engines(self) -> tuple[EngineConfig, ...]:
        """Those of all its machines."""
        return tuple(engine for machine in self.machines for engine in machine.engines)

    @property
    def agents(self) -> tuple[AgentConfig, ...]:
        """One a machine."""
        return tuple(machine.agent for machine in self.machines)
