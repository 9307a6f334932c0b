"""Another deployment file for processes that run: what stays keeps its addresses, the rest is
resolved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from prfaas.core.deployment import (
    AgentConfig,
    Deployment,
    EngineConfig,
    GatewayConfig,
    MachineConfig,
    TlsConfig,
)
from prfaas.core.deployment.changes import check_doors
from prfaas.core.errors import ConfigError
from prfaas.launch.addresses import HOST, resolve
from prfaas.launch.certificates import issued
from prfaas.launch.gpus import placed

_ANYWHERE = f"{HOST}:0"
_ENGINE = ("url", "kv_events", "kv_events_replay", "gpus", "gpu_memory_share")
_AGENT = ("listen", "admin", "socket", "advertise", "admin_advertise", "tls", "plaintext")
_GATEWAY = ("listen", "advertise", "agent_tls")
"""What a start has filled in, and what runs keeps."""

T = TypeVar("T", EngineConfig, AgentConfig, GatewayConfig)


def joined(
    new: Deployment, running: Deployment, *, gpus: Sequence[str], sockets: Path, certs: Path
) -> Deployment:
    """``new`` with every address known. Raises ConfigError for what only a start can change.

    Args:
        new: as the file says it.
        running: what runs, with every address.
        gpus: of this machine.
        sockets: see `addresses.resolve`.
        certs: where the authority of this start is, if it made one.
    """
    engines = {e.name: e for e in running.engines}
    agents = {a.name: a for a in running.agents}
    gateways = {g.name: g for g in running.gateways}

    def gpus_taken(engine: EngineConfig) -> EngineConfig:
        before = engines.get(engine.name)
        if before is None or engine.url is not None:
            return engine
        return _with(engine, before, ("gpus", "gpu_memory_share"))

    def out_of_the_way(machine: MachineConfig) -> MachineConfig:
        """Their ports are taken, by themselves."""
        agent = machine.agent
        if agent.name in agents and not agent.external:
            agent = msgspec.structs.replace(agent, listen=_ANYWHERE, admin=_ANYWHERE)
        found = [
            e if e.name not in engines or e.url else _with(e, engines[e.name], _ENGINE)
            for e in machine.engines
        ]
        return msgspec.structs.replace(machine, agent=agent, engines=tuple(found))

    def as_they_run(machine: MachineConfig) -> MachineConfig:
        before = agents.get(machine.agent.name)
        if before is None or before.external:
            return machine
        return msgspec.structs.replace(machine, agent=_with(machine.agent, before, _AGENT))

    def gateway_out_of_the_way(gateway: GatewayConfig) -> GatewayConfig:
        known = gateway.name in gateways
        return msgspec.structs.replace(gateway, listen=_ANYWHERE) if known else gateway

    def gateway_as_it_runs(gateway: GatewayConfig) -> GatewayConfig:
        before = gateways.get(gateway.name)
        return gateway if before is None else _with(gateway, before, _GATEWAY)

    found = placed(new.with_machines(lambda m: _each_engine(m, gpus_taken)), gpus)
    found = found.with_machines(out_of_the_way).with_gateways(gateway_out_of_the_way)
    found = resolve(found, sockets=sockets)
    found = found.with_machines(as_they_run).with_gateways(gateway_as_it_runs)
    found = _secured(found, agents, certs)
    _check(found, running, engines)
    return found


def _each_engine(
    machine: MachineConfig, change: Callable[[EngineConfig], EngineConfig]
) -> MachineConfig:
    return msgspec.structs.replace(machine, engines=tuple(map(change, machine.engines)))


def _with(new: T, before: T, fields: Sequence[str]) -> T:
    return msgspec.structs.replace(new, **{field: getattr(before, field) for field in fields})


def _secured(deployment: Deployment, before: dict[str, AgentConfig], certs: Path) -> Deployment:
    """Newcomers get certificates of the start's authority, where it made one."""
    if not (certs / "ca.pem").is_file():
        return deployment

    def certificate(name: str, own: TlsConfig | None) -> TlsConfig:
        return issued(name, certs) if own is None else own

    def secure(machine: MachineConfig) -> MachineConfig:
        agent = machine.agent
        if agent.name in before or agent.plaintext or agent.external:
            return machine
        agent = msgspec.structs.replace(agent, tls=certificate(agent.name, agent.tls))
        return msgspec.structs.replace(machine, agent=agent)

    def show(gateway: GatewayConfig) -> GatewayConfig:
        own = certificate(gateway.name, gateway.agent_tls)
        return msgspec.structs.replace(gateway, agent_tls=own)

    return deployment.with_machines(secure).with_gateways(show)


def _check(new: Deployment, running: Deployment, engines: dict[str, EngineConfig]) -> None:
    if new.model != running.model:
        raise ConfigError("the model has changed: end 'prfaas up' and start it anew for that")
    for engine in new.engines:
        if engine != engines.get(engine.name, engine):
            raise ConfigError(
                f"engine {engine.name!r} has changed: give what it is to be another name, and it "
                "is started while the old one drains; or start 'prfaas up' anew"
            )
    check_doors(running, new)
