"""The deployment file as people write it, and from it a `Deployment`.

A cluster of one machine may be written in the short form, with the machine's agent and engines as
its own; a single gateway likewise. `prfaas up` writes the long form.
"""

from __future__ import annotations

from pathlib import Path

from prfaas.core.deployment.agents import AgentConfig
from prfaas.core.deployment.clusters import ClusterConfig, ClusterKind, LanConfig, MachineConfig
from prfaas.core.deployment.engines import EngineConfig, ProcessName
from prfaas.core.deployment.gateways import GatewayConfig
from prfaas.core.deployment.links import LinkConfig
from prfaas.core.deployment.model import Deployment, ModelConfig
from prfaas.core.deployment.scheduling import SchedulerConfig
from prfaas.core.deployment.validity import validate
from prfaas.core.errors import ConfigError
from prfaas.core.planned import PlannedCluster, PlannedDeployment
from prfaas.core.strict import load_yaml, naming, parse_yaml


class ClusterEntry(PlannedCluster, frozen=True, kw_only=True):
    """A cluster of the file: ``machines``, or ``agent`` and ``engines`` of its only one; or
    ``instances``, where it is only planned."""

    name: ProcessName
    kind: ClusterKind
    agent: AgentConfig | None = None
    engines: tuple[EngineConfig, ...] | None = None
    machines: tuple[MachineConfig, ...] | None = None
    lan: LanConfig | None = None


class DeploymentFile(PlannedDeployment, frozen=True, kw_only=True):
    """The whole file."""

    clusters: tuple[ClusterEntry, ...]
    links: tuple[LinkConfig, ...] = ()
    model: ModelConfig = ModelConfig()
    gateway: GatewayConfig | None = None
    gateways: tuple[GatewayConfig, ...] | None = None
    scheduler: SchedulerConfig = SchedulerConfig()


def load_deployment(path: Path) -> Deployment:
    """Read and validate a deployment file. Raises ConfigError."""
    return _checked(load_yaml(path, DeploymentFile), source=str(path))


def parse_deployment(text: bytes | str, *, source: str) -> Deployment:
    """The same from memory (the embedded default, tests)."""
    return _checked(parse_yaml(text, DeploymentFile, source=source), source=source)


def _checked(file: DeploymentFile, *, source: str) -> Deployment:
    with naming(source):
        for entry in file.clusters:
            if entry.pools:
                raise ConfigError(
                    f"cluster {entry.name!r}: instances have no address, they are for 'prfaas "
                    "plan' and 'prfaas simulate'; write an agent and engines to run it"
                )
        return deployment_of(file)


def deployment_of(file: DeploymentFile) -> Deployment:
    """What the file says there is, checked; clusters may be planned only. Raises ConfigError."""
    deployment = Deployment(
        clusters=tuple(_cluster(entry) for entry in file.clusters),
        links=file.links,
        model=file.model,
        gateways=_gateways(file),
        scheduler=file.scheduler,
    )
    validate(deployment)
    return deployment


def _cluster(entry: ClusterEntry) -> ClusterConfig:
    with naming(f"cluster {entry.name!r}"):
        machines = entry.machines
        if entry.pools:
            if machines or entry.agent or entry.engines:
                raise ConfigError("instances and machines exclude each other; leave one out")
            machines = ()
        elif machines is None:
            if entry.agent is None or entry.engines is None:
                raise ConfigError("give it an agent and engines, or machines that have them")
            machines = (MachineConfig(name=entry.name, agent=entry.agent, engines=entry.engines),)
        elif entry.agent is not None or entry.engines is not None:
            raise ConfigError("its machines have the agents and engines; it has none of its own")
        elif not machines:
            raise ConfigError("it needs a machine")
        if entry.lan is not None and entry.kind == "prfaas" and entry.lan != LanConfig():
            raise ConfigError(
                "machines of a PrfaaS cluster hand nothing to each other; leave 'lan' out"
            )
        return ClusterConfig(
            name=entry.name,
            kind=entry.kind,
            machines=machines,
            lan=entry.lan or LanConfig(),
            instances=entry.instances,
            profile=entry.profile,
            prefix_cache=entry.prefix_cache,
        )


def _gateways(file: DeploymentFile) -> tuple[GatewayConfig, ...]:
    if file.gateways is None:
        return (file.gateway or GatewayConfig(),)
    if file.gateway is not None:
        raise ConfigError("write gateway (one) or gateways (several), not both")
    if not file.gateways:
        raise ConfigError("gateways is empty; leave it out for one with the defaults")
    return file.gateways
