"""What a gateway, and our own tools, show to agents and gateways, and whom they take for one."""

from __future__ import annotations

import ssl
from os.path import isfile
from pathlib import Path

from prfaas.core.addresses import parse_address
from prfaas.core.deployment import Deployment, GatewayConfig, is_carried
from prfaas.core.errors import ConfigError
from prfaas.tls.context import PeerContext, client_context, named_context, peer_context
from prfaas.tls.files import TlsFiles, files_in
from prfaas.tls.front import trust_of, trusting, trusting_anybody


def agent_contexts(deployment: Deployment) -> dict[str, PeerContext]:
    """By agent, of those that speak TLS, for the deployment's own gateway. Raises ConfigError."""
    own = deployment.gateway.agent_tls
    if own is None:
        return {}
    files = files_in(own)
    return {
        agent.name: peer_context(files, agent.name, parse_address(agent.admin_address))
        for agent in deployment.agents
        if agent.tls is not None
    }


def tools_context(deployment: Deployment) -> ssl.SSLContext | None:
    """For our own tools, with the first certificate of the file that can be used on this machine, a
    gateway's if possible; None where there is none."""
    files = _usable(deployment)
    return None if files is None else client_context(files)


def _usable(deployment: Deployment) -> TlsFiles | None:
    shown = [g.agent_tls for g in deployment.gateways] + [a.tls for a in deployment.agents]
    for config in shown:
        try:
            if config is not None:
                client_context(files_in(config))
                return files_in(config)
        except (ConfigError, OSError):
            continue
    return None


def _of_admin(gateway: GatewayConfig) -> ssl.SSLContext | bool:
    """Where this machine has not got its authority, it fails as one of a stranger's."""
    shown = gateway.admin_shows
    if shown is not None and isfile(shown.ca):
        return named_context(files_in(shown), gateway.certificate_name or gateway.name)
    return trust_of(gateway)


class Trust:
    """Which context goes with which URL, as aiohttp takes it. Raises ConfigError for an authority
    of a gateway's clients, or of engines, that cannot be read."""

    def __init__(self, deployment: Deployment) -> None:
        self._agents = {f"{a.admin_url}/": a.name for a in deployment.agents if a.tls is not None}
        self._files = files = _usable(deployment) if self._agents else None
        self._named: dict[str, ssl.SSLContext] = {}
        self._elsewhere = trust_of(deployment.gateway)
        self._servers: dict[str, ssl.SSLContext | bool] = {}
        for gateway in deployment.gateways:
            self._servers[f"{gateway.url}/"] = trust_of(gateway)
            self._servers |= dict.fromkeys(
                (f"{url}/" for url in gateway.admin_urls), _of_admin(gateway)
            )
        for engine in deployment.engines:
            # Where this machine has not got its authority, it fails as one of a stranger's.
            ca = None if engine.ca is None else Path(engine.ca)
            known = ca is not None and isfile(ca)
            self._servers[f"{(engine.url or '').rstrip('/')}/"] = trusting(ca) if known else True
        doors = [g for g in deployment.gateways if g.admin is None and g.tls is not None]
        self._doors = tuple(f"{url}/" for gateway in doors for url in gateway.own_urls)
        self.carried: dict[str, PeerContext] = {}
        """By engine, of those that agents carry; for a connector that carries."""
        for machine in deployment.machines if files else ():
            agent = machine.agent
            carried = [engine.name for engine in machine.engines if is_carried(engine, agent)]
            if files and carried:
                address = parse_address(agent.admin_address)
                self.carried |= dict.fromkeys(carried, peer_context(files, agent.name, address))

    def of(self, url: str) -> ssl.SSLContext | bool:
        """What our tools trust there; at an address that the file does not have, a gateway's."""
        agents = (name for start, name in self._agents.items() if url.startswith(start))
        if self._files is not None and (agent := next(agents, None)) is not None:
            if agent not in self._named:
                self._named[agent] = named_context(self._files, agent, shows=True)
            return self._named[agent]
        found = (trust for start, trust in self._servers.items() if url.startswith(start))
        return next(found, self._elsewhere)

    def of_own(self, url: str) -> ssl.SSLContext | bool:
        """The same for whoever has started what is asked, and shows it nothing: the certificate of
        a gateway's door is for those who know it by another name."""
        return trusting_anybody() if url.startswith(self._doors) else self.of(url)
