"""Addresses and sockets that two processes of a deployment cannot both have."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

from prfaas.core.addresses import Address, is_everywhere, parse_address, parse_url, stays_here
from prfaas.core.deployment.agents import AgentConfig
from prfaas.core.deployment.clusters import MachineConfig
from prfaas.core.deployment.model import Deployment
from prfaas.core.errors import ConfigError


def check_doubled(deployment: Deployment) -> None:
    """Raise ConfigError where one address is said to be of two processes: the second cannot start,
    or answers for the first. Ports that are chosen at the start (0) are none yet, and an address
    that is bound on every interface is its machine's alone."""
    found: dict[str, str] = {}
    for what, place in _reached(deployment):
        other = found.setdefault(place, what)
        if other != what:
            raise ConfigError(
                f"{place} is said to be of {other} and of {what}: only one can be there"
            )
    for machine in deployment.machines:
        _check_bound(machine)


def _reached(deployment: Deployment) -> Iterator[tuple[str, str]]:
    """What is reached where."""
    for agent in deployment.agents:
        yield from _of_agent(agent)
    for machine in deployment.machines:
        for engine in machine.engines:
            if engine.url is not None:
                yield f"engine {engine.name!r}", _on_its_machine(parse_url(engine.url), machine)
    for gateway in deployment.gateways:
        yield from _fixed(f"gateway {gateway.name!r}", gateway.address)


def _of_agent(agent: AgentConfig) -> Iterator[tuple[str, str]]:
    admin, listen = ("", "") if agent.has_one_port else (" (admin)", " (listen)")
    yield from _fixed(f"agent {agent.name!r}{admin}", agent.admin_address)
    yield from _fixed(f"agent {agent.name!r}{listen}", agent.link_address)
    host = parse_address(agent.admin_address).host
    if agent.socket is not None and not is_everywhere(host):
        yield f"agent {agent.name!r} (socket)", f"{agent.socket} on {host}"


def _on_its_machine(address: Address, machine: MachineConfig) -> str:
    """Loopback addresses are a machine's own; machines are told apart by where their agents are."""
    host = parse_address(machine.agent.admin_address).host
    alone = stays_here(address.host) and not stays_here(host) and not is_everywhere(host)
    return f"{address} on {host}" if alone else str(address)


def _fixed(what: str, address: str) -> Iterator[tuple[str, str]]:
    host, port = parse_address(address)
    if port and not is_everywhere(host):
        yield what, str(parse_address(address))


def _check_bound(machine: MachineConfig) -> None:
    """One port of an agent at two addresses, which are not two for who binds them."""
    agent = machine.agent
    listen, admin = parse_address(agent.listen), parse_address(agent.admin)
    if listen.port and listen.port == admin.port and listen != admin and _overlap(listen, admin):
        raise ConfigError(
            f"agent {agent.name!r}: listen {agent.listen!r} and admin {agent.admin!r} are one "
            "port: write the same address at both, or give each a port of its own"
        )


def _overlap(one: Address, other: Address) -> bool:
    """Every interface is also each; one host may be written in several ways."""
    hosts = one.host.lower(), other.host.lower()
    if any(is_everywhere(host) for host in hosts) or hosts[0] == hosts[1]:
        return True
    if "localhost" in hosts:
        return all(stays_here(host) for host in hosts)
    try:
        return ip_address(hosts[0]) == ip_address(hosts[1])
    except ValueError:
        return False
