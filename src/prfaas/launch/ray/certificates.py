"""Certificates that are made when a deployment is put on a cluster: of each process its own, under
names that say nothing of a folder."""

from __future__ import annotations

from pathlib import Path

import msgspec

from prfaas.core.deployment import (
    AgentConfig,
    Deployment,
    GatewayConfig,
    MachineConfig,
    TlsConfig,
)
from prfaas.launch.certificates import secured

_MADE = "made:"
"""Before the name of a file that every process has in its own folder."""


def with_certificates(
    deployment: Deployment, directory: Path
) -> tuple[Deployment, dict[str, dict[str, str]]]:
    """``deployment`` with certificates for agents and gateways that need some and have none, and of
    each process the texts of its own by the files' names. ``directory``, on this machine, keeps all
    of them, and the authority. Raises OSError where it cannot be written."""
    secure = secured(deployment, directory)
    own = {agent.name: agent.tls for agent in secure.agents}
    own |= {gateway.name: gateway.agent_tls for gateway in secure.gateways}
    files = {name: _texts(tls, directory) for name, tls in own.items()}
    return _with_folder(secure, str(directory), _MADE), files


def localized(deployment: Deployment, folder: Path) -> Deployment:
    """The same where the files of `with_certificates` lie in ``folder``."""
    return _with_folder(deployment, _MADE, str(folder))


def _texts(tls: TlsConfig | None, directory: Path) -> dict[str, str]:
    if tls is None or Path(tls.ca).parent != directory:
        return {}
    paths = [Path(path) for path in _files(tls).values()]
    paths.append(Path(tls.cache_key_file))
    return {path.name: path.read_text() for path in paths}


def _files(tls: TlsConfig) -> dict[str, str]:
    own = {"ca": tls.ca, "cert": tls.cert, "key": tls.key}
    return own if tls.crl is None else own | {"crl": tls.crl}


def _with_folder(deployment: Deployment, old: str, new: str) -> Deployment:
    def moved(tls: TlsConfig | None) -> TlsConfig | None:
        if tls is None or not tls.ca.startswith(old):
            return tls
        paths = {
            key: new.rstrip("/") + "/" + path.rpartition("/")[2]
            for key, path in _files(tls).items()
        }
        return msgspec.structs.replace(tls, **paths)

    def agent(agent: AgentConfig) -> AgentConfig:
        return msgspec.structs.replace(agent, tls=moved(agent.tls))

    def machine(machine: MachineConfig) -> MachineConfig:
        return msgspec.structs.replace(machine, agent=agent(machine.agent))

    def gateway(gateway: GatewayConfig) -> GatewayConfig:
        return msgspec.structs.replace(gateway, agent_tls=moved(gateway.agent_tls))

    return deployment.with_machines(machine).with_gateways(gateway)
