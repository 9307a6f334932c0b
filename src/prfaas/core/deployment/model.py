"""The whole of a deployment, in the one form that the rest of the product works with."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from prfaas.core.deployment.agents import AgentConfig
from prfaas.core.deployment.clusters import ClusterConfig, MachineConfig
from prfaas.core.deployment.engines import EngineConfig, Positive
from prfaas.core.deployment.gateways import GatewayConfig
from prfaas.core.deployment.links import LinkConfig
from prfaas.core.deployment.scheduling import SchedulerConfig
from prfaas.core.errors import ConfigError
from prfaas.core.planned import PlannedModel
from prfaas.core.strict import Strict


class ModelConfig(PlannedModel, frozen=True, kw_only=True):
    """What is served. ``path`` None: the tiny model the product makes itself."""

    path: str | None = None
    served_name: str | None = None
    max_model_len: Positive = 32768
    block_tokens: Positive = 256
    max_num_batched_tokens: Positive = 2048
    kv_cache: str = "1 GiB"


class Deployment(Strict, frozen=True):
    """What a file says, checked (`validity` says what that means).

    Names of clusters, machines, agents, engines and gateways are what everything else calls them
    by; every name that is looked up here must be one of them.
    """

    clusters: tuple[ClusterConfig, ...]
    links: tuple[LinkConfig, ...] = ()
    model: ModelConfig = ModelConfig()
    gateways: tuple[GatewayConfig, ...] = (GatewayConfig(),)
    scheduler: SchedulerConfig = SchedulerConfig()

    @property
    def gateway(self) -> GatewayConfig:
        """The first; in a gateway's own process that one (`of_gateway`)."""
        return self.gateways[0]

    @property
    def machines(self) -> tuple[MachineConfig, ...]:
        """Of all clusters."""
        return tuple(machine for cluster in self.clusters for machine in cluster.machines)

    @property
    def agents(self) -> tuple[AgentConfig, ...]:
        """Of all machines."""
        return tuple(machine.agent for machine in self.machines)

    @property
    def engines(self) -> tuple[EngineConfig, ...]:
        """Of all machines."""
        return tuple(engine for machine in self.machines for engine in machine.engines)

    @property
    def secret_files(self) -> tuple[str, ...]:
        """Files that its gateway reads keys and certificates from."""
        engines = [file for e in self.engines for file in (e.api_key_file, e.ca) if file]
        return (*self.gateway.secret_files, *engines)

    @property
    def secret_variables(self) -> frozenset[str]:
        """Environment variables with keys of clients, operators and engines: for gateways alone."""
        sources = [source for g in self.gateways for source in g.key_sources]
        sources += [engine.keys for engine in self.engines]
        return frozenset(source.env for source in sources if source.env is not None)

    def cluster(self, name: str) -> ClusterConfig:
        """The cluster of this name."""
        return next(c for c in self.clusters if c.name == name)

    def machine_of_engine(self, engine: str) -> MachineConfig:
        """The machine that an engine runs on."""
        return next(m for m in self.machines if any(e.name == engine for e in m.engines))

    def cluster_of_engine(self, engine: str) -> ClusterConfig:
        """The cluster that an engine belongs to."""
        return next(c for c in self.clusters if any(e.name == engine for e in c.engines))

    def agent_of_engine(self, engine: str) -> AgentConfig:
        """The agent that an engine hands its KV cache to."""
        return self.machine_of_engine(engine).agent

    def of_gateway(self, name: str) -> Deployment:
        """The same as the gateway of this name sees it: itself first. Raises ConfigError."""
        own = [g for g in self.gateways if g.name == name]
        if not own:
            known = ", ".join(g.name for g in self.gateways)
            raise ConfigError(f"no gateway {name!r} in the deployment; known: {known}")
        others = [g for g in self.gateways if g.name != name]
        return msgspec.structs.replace(self, gateways=(*own, *others))

    def with_machines(self, change: Callable[[MachineConfig], MachineConfig]) -> Deployment:
        """The same with every machine as ``change`` returns it."""
        return msgspec.structs.replace(
            self,
            clusters=tuple(
                msgspec.structs.replace(c, machines=tuple(change(m) for m in c.machines))
                for c in self.clusters
            ),
        )

    def with_gateways(self, change: Callable[[GatewayConfig], GatewayConfig]) -> Deployment:
        """The same with every gateway as ``change`` returns it."""
        return msgspec.structs.replace(self, gateways=tuple(change(g) for g in self.gateways))
