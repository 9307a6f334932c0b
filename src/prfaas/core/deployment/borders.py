"""Whether what a file describes crosses a machine's border in plaintext without having said so."""

from __future__ import annotations

from prfaas.core.addresses import parse_address, parse_url, stays_here
from prfaas.core.deployment.agents import AgentConfig
from prfaas.core.deployment.clusters import MachineConfig
from prfaas.core.deployment.engines import EngineConfig
from prfaas.core.deployment.gateways import GatewayConfig
from prfaas.core.deployment.model import Deployment
from prfaas.core.errors import ConfigError
from prfaas.core.strict import naming


def check_borders(deployment: Deployment) -> None:
    """Raise ConfigError that says what to write. Asked by every process that would speak, of each
    file that it takes."""
    for machine in deployment.machines:
        agent = machine.agent
        if agent.plaintext:
            continue
        with naming(f"agent {agent.name!r}"):
            _check_agent(agent, deployment)
        for engine in machine.engines:
            with naming(f"engine {engine.name!r}"):
                _check_engine(engine, machine)
    for gateway in deployment.gateways:
        if not gateway.plaintext:
            with naming(f"gateway {gateway.name!r}"):
                _check_gateway(gateway)


def is_carried(engine: EngineConfig, agent: AgentConfig) -> bool:
    """Whether gateways reach the engine through its agent: all that do not speak TLS themselves
    where the agent does."""
    return agent.tls is not None and not (engine.url or "").startswith("https:")


def _check_agent(agent: AgentConfig, deployment: Deployment) -> None:
    if agent.tls is None:
        if not stays_here(parse_address(agent.admin_address, what="admin").host):
            raise ConfigError(
                f"its HTTP at {agent.admin_address} would cross the network in plaintext; write "
                "tls: {ca, cert, key} ('prfaas certs' makes them), or plaintext: true where the "
                "network is protected otherwise"
            )
        return
    for gateway in deployment.gateways:
        if gateway.agent_tls is None:
            raise ConfigError(
                f"it speaks mutual TLS, and gateway {gateway.name!r} has no certificate for it; "
                f"run 'prfaas certs issue {gateway.name}' and write at the gateway: agent_tls: "
                f"{{ca: .../ca.pem, cert: .../{gateway.name}.pem, key: .../{gateway.name}-key.pem}}"
            )


def _check_engine(engine: EngineConfig, machine: MachineConfig) -> None:
    agent = machine.agent
    own = set()
    if agent.tls is not None:  # It speaks to its engines for others.
        places = (agent.admin, agent.listen, agent.admin_address, agent.link_address)
        own = {parse_address(place).host for place in places}
    if engine.url is not None and engine.url.startswith("http:"):
        host = parse_url(engine.url).host
        if host not in own and not stays_here(host):
            raise ConfigError(
                f"url {engine.url} would cross the network in plaintext; let the engine listen on "
                f"127.0.0.1, where {_reached(agent)}, or speak https, or write plaintext: true at "
                f"agent {agent.name!r} where the network is protected otherwise"
            )
    for key in ("kv_events", "kv_events_replay"):
        endpoint = getattr(engine, key)
        if endpoint is None or not endpoint.startswith("tcp://"):
            continue
        host = endpoint.removeprefix("tcp://").rpartition(":")[0].strip("[]")
        if host not in own and host != "*" and not stays_here(host):
            raise ConfigError(
                f"{key} {endpoint} would cross the network in plaintext, with the tokens of every "
                f"prompt; publish on tcp://127.0.0.1:PORT, where {_reached(agent)}, or write "
                f"plaintext: true at agent {agent.name!r} where the network is protected otherwise"
            )


def _check_gateway(gateway: GatewayConfig) -> None:
    for key, place, tls, what, wanted in (
        ("listen", gateway.listen, gateway.tls, "prompts, answers and keys", "tls: {cert, key}"),
        ("admin", gateway.admin, gateway.agent_tls, "operators' keys", "agent_tls: {ca, ...}"),
    ):
        if place is None or tls is not None or stays_here(parse_address(place, what=key).host):
            continue
        raise ConfigError(
            f"{key} {place} would have {what} cross the network in plaintext; write {wanted}, or "
            "listen on 127.0.0.1, or write plaintext: true at the gateway where a proxy or the "
            "network itself protects them"
        )


def _reached(agent: AgentConfig) -> str:
    if agent.tls is None:
        return f"agent {agent.name!r} carries it for gateways as soon as it has tls: {{...}}"
    return f"agent {agent.name!r} carries it for gateways"
