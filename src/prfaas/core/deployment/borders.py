"""Whether what a file describes crosses a machine's border in plaintext without having said so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from prfaas.core.addresses import is_heard_elsewhere, parse_address, parse_url, stays_here
from prfaas.core.deployment.agents import AgentConfig
from prfaas.core.deployment.engines import EngineConfig
from prfaas.core.deployment.gateways import GatewayConfig
from prfaas.core.deployment.model import Deployment
from prfaas.core.errors import UNREADABLE, ConfigError
from prfaas.core.strict import naming

_NO = frozenset({"false", "f", "no", "n", "off", "0", "0.0"})
_MEETING_OPTIONS = (("--data-parallel-address", "-dpa"), ("--master-addr",))
_MEETING_VARIABLES = ("VLLM_DP_MASTER_IP",)
_MEETING_INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


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
    for meets in _meets_elsewhere(engine):
        raise ConfigError(
            f"{meets} would have its ranks meet, and speak in plaintext, where other machines "
            "reach them; leave it out, so that they meet on the loopback of one machine, or "
            f"{_say_so(agent)}"
        )
    for key, endpoint in places:
        if endpoint is not None and is_heard_elsewhere(endpoint):
            raise ConfigError(
                f"{key} {endpoint} would have the tokens of every prompt open to the network in "
                "plaintext; write kv_events: tcp://127.0.0.1:PORT at the engine, where "
                f"{_reached(agent)}, or {_say_so(agent)}"
            )


def _meets_elsewhere(engine: EngineConfig) -> Iterator[str]:
    """What it says of where its ranks meet, that is not the loopback: there are their handshakes,
    what they compute, and of one of several machines what each step is of, token ids among it."""
    hosts = [(names[0], engine.option(*names)) for names in _MEETING_OPTIONS]
    hosts += [(f"env: {name}", engine.env.get(name)) for name in _MEETING_VARIABLES]
    for key, host in hosts:
        if host is not None and not stays_here(host.strip("[]")):
            yield f"{key} {host}"
    for name in _MEETING_INTERFACES:
        interface = engine.env.get(name, "lo")
        if interface.removeprefix("=") != "lo":
            yield f"env: {name} {interface}"
    if (machines := engine.option("--nnodes", "-n")) not in (None, "1"):
        yield f"--nnodes {machines}"


def _published_by(engine: EngineConfig) -> tuple[str | None, ...]:
    """Where its arguments have it publish KV events. Raises ConfigError for what may be more than
    JSON to vLLM."""
    given = engine.option("--kv-events-config")
    if given is None:
        return ()
    try:
        said = msgspec.json.decode(given, type=dict[str, Any])
    except UNREADABLE as error:
        raise ConfigError(
            f"--kv-events-config {given}: where it publishes cannot be told, since it is no JSON "
            f"object ({error})"
        ) from error
    # vLLM takes texts and numbers for true and false.
    if str(said.get("enable_kv_cache_events", False)).lower() in _NO:
        return ()
    found = said.get("endpoint", "tcp://*:5557"), said.get("replay_endpoint")
    return () if said.get("publisher") == "null" else tuple(map(_text, found))


def _text(said: object) -> str | None:
    return said if isinstance(said, str) else None  # vLLM takes no other.


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
