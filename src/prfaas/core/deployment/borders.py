"""Whether what a file describes crosses a machine's border in plaintext without having said so."""

from __future__ import annotations

import msgspec

from prfaas.core.addresses import is_heard_elsewhere, parse_address, parse_url, stays_here
from prfaas.core.deployment.agents import AgentConfig
from prfaas.core.deployment.engines import EngineConfig
from prfaas.core.deployment.gateways import GatewayConfig
from prfaas.core.deployment.model import Deployment
from prfaas.core.errors import UNREADABLE, ConfigError
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
                _check_engine(engine, agent)
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
        for place in (agent.admin_address, agent.admin):  # Dialled, and bound.
            if stays_here(parse_address(place, what="admin").host):
                continue
            raise ConfigError(
                f"its HTTP at {place} would cross the network in plaintext; write "
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


def _check_engine(engine: EngineConfig, agent: AgentConfig) -> None:
    """Also an address of its own machine is open: to everybody who reaches that machine."""
    places = [("kv_events", engine.kv_events), ("kv_events_replay", engine.kv_events_replay)]
    places += [("--kv-events-config", place) for place in _published_by(engine)]
    if not (engine.url or "").startswith("https:"):
        for key, host in (
            (f"url {engine.url}", parse_url(engine.url).host if engine.url else None),
            (f"--host {engine.option('--host')}", engine.option("--host")),
        ):
            if host is not None and not stays_here(host):
                raise ConfigError(
                    f"{key} would have prompts and answers open to the network in plaintext; let "
                    f"the engine listen on 127.0.0.1, where {_reached(agent)}, or speak https, or "
                    f"{_say_so(agent)}"
                )
    for key, endpoint in places:
        if endpoint is not None and is_heard_elsewhere(endpoint):
            raise ConfigError(
                f"{key} {endpoint} would have the tokens of every prompt open to the network in "
                f"plaintext; publish on tcp://127.0.0.1:PORT, where {_reached(agent)}, or "
                f"{_say_so(agent)}"
            )


def _published_by(engine: EngineConfig) -> tuple[str | None, ...]:
    """Where its arguments have it publish KV events."""
    try:
        said = msgspec.json.decode(engine.option("--kv-events-config") or "", type=_KvEvents)
    except UNREADABLE:
        return ()  # There is none, or vLLM says why it takes none.
    return (said.endpoint, said.replay_endpoint) if said.enable_kv_cache_events else ()


class _KvEvents(msgspec.Struct):
    """As vLLM takes it, with what it takes where nothing is said."""

    enable_kv_cache_events: bool = False
    endpoint: str = "tcp://*:5557"
    replay_endpoint: str | None = None


def _check_gateway(gateway: GatewayConfig) -> None:
    for key, place, tls, what, wanted in (
        ("listen", gateway.listen, gateway.tls, "prompts, answers and keys", "tls: {cert, key}"),
        ("advertise", gateway.advertise, gateway.tls, "operators' keys", "tls: {cert, key}"),
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


def _say_so(agent: AgentConfig) -> str:
    return f"write plaintext: true at agent {agent.name!r} where the network is protected otherwise"
