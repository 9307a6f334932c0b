"""Certificates for agents that all run on this machine, and for gateways before them: made for one
run, gone with it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from prfaas.core.deployment import AgentConfig, Deployment, GatewayConfig, MachineConfig, TlsConfig
from prfaas.tls import authority
from prfaas.tls.files import CRL

_DAYS = 365


def secured(deployment: Deployment, directory: Path) -> Deployment:
    """``deployment`` with a certificate for every agent that says neither ``tls`` nor
    ``plaintext``; unchanged where an agent runs elsewhere, since it could not have our CA."""
    agents = deployment.agents
    open_agents = {a.name for a in agents if a.tls is None and not a.plaintext}
    all_ours = not any(agent.tls for agent in agents)
    if not open_agents or any(agent.external for agent in agents):
        return deployment
    authority.create_authority(directory, days=_DAYS)
    authority.renew_list(directory)

    def secure(machine: MachineConfig) -> MachineConfig:
        if machine.agent.name not in open_agents:
            return machine
        return msgspec.structs.replace(machine, agent=_with_certificate(machine.agent, directory))

    def show(gateway: GatewayConfig) -> GatewayConfig:
        if gateway.agent_tls is not None or not all_ours:
            return gateway
        return msgspec.structs.replace(gateway, agent_tls=issued(gateway.name, directory))

    return deployment.with_machines(secure).with_gateways(show)


def _with_certificate(agent: AgentConfig, directory: Path) -> AgentConfig:
    return msgspec.structs.replace(agent, tls=issued(agent.name, directory))


def issued(name: str, directory: Path) -> TlsConfig:
    """One more certificate of the authority in ``directory``."""
    files, crl = authority.issue(directory, name, days=_DAYS), directory / CRL
    listed = str(crl) if crl.exists() else None  # There is none where pods make theirs.
    return TlsConfig(ca=str(files.ca), cert=str(files.cert), key=str(files.key), crl=listed)
