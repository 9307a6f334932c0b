"""The addresses of a process on the node that it stands on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from prfaas.core.addresses import Address, is_everywhere, parse_address, stays_here
from prfaas.core.deployment import AgentConfig, Deployment, EngineConfig, GatewayConfig
from prfaas.core.errors import ConfigError
from prfaas.launch.addresses import claimed
from prfaas.launch.ray.placing import Kind


def socket_of(deployment: Deployment, agent: str, folder: Path) -> str:
    """Where the engines of a machine find their agent: on whichever node, the same in all processes
    of a deployment, and short (the kernel allows 107 bytes)."""
    names = [a.name for a in deployment.agents]
    return str(folder / f"agent-{names.index(agent)}.sock")


def whereabouts(
    deployment: Deployment,
    name: str,
    kind: Kind,
    *,
    host: str,
    folder: Path,
    before: Mapping[str, str],
) -> dict[str, str]:
    """What a process fills into its entry of the file.

    Args:
        host: the node's address.
        folder: the deployment's on this node.
        before: what it has told last. Chosen ports stay while they are free, so that others need
            not look for it elsewhere.

    Raises ConfigError for a port of the file that is taken.
    """
    if kind == "agent":
        agent = next(a for a in deployment.agents if a.name == name)
        socket = agent.socket or socket_of(deployment, name, folder)
        return {**_agent(agent, host, before), "socket": socket}
    if kind == "engine":
        engine = next(e for e in deployment.engines if e.name == name)
        at = [e.name for e in deployment.engines].index(name)
        carried = deployment.agent_of_engine(name).tls is not None
        return _engine(engine, host, folder / f"engine-{at}", before, carried=carried)
    return _gateway(next(g for g in deployment.gateways if g.name == name), host, before)


def sockets(fields: Mapping[str, str]) -> list[Path]:
    """The Unix sockets among what a process has told of itself."""
    found = [value.removeprefix("ipc://") for value in fields.values() if value.startswith("ipc:")]
    return [Path(path) for path in (*found, fields.get("socket")) if path is not None]


def _agent(agent: AgentConfig, host: str, before: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for key, reached in (("listen", "advertise"), ("admin", "admin_advertise")):
        wanted: str = getattr(agent, key)
        bound, port = parse_address(wanted)
        if port == 0 and not is_everywhere(bound):
            wanted = str(Address(host, 0))
        found[key] = _chosen(wanted, before.get(key), who=agent.name)
        if is_everywhere(bound) and not (getattr(agent, reached) or agent.told_of_both):
            found[reached] = str(Address(host, parse_address(found[key]).port))
    return found


def _engine(
    engine: EngineConfig, host: str, events: Path, before: Mapping[str, str], *, carried: bool
) -> dict[str, str]:
    """``carried``: its agent is the only one that speaks to it from elsewhere."""
    own = "127.0.0.1" if carried else host
    found = {}
    if engine.url is None:
        last = before.get("url", "").removeprefix("http://") or None
        found["url"] = f"http://{_chosen(str(Address(own, 0)), last, who=engine.name)}"
    if engine.kv_events is None and engine.option("--kv-events-config") is None:
        if carried:
            published, replayed = f"ipc://{events}.events", f"ipc://{events}.replay"
        else:
            any_port = str(Address(own, 0))
            addresses = claimed(any_port, any_port, who=engine.name)
            published, replayed = (f"tcp://{address}" for address in addresses)
        found |= {"kv_events": published, "kv_events_replay": replayed}
    return found


def _gateway(gateway: GatewayConfig, host: str, before: Mapping[str, str]) -> dict[str, str]:
    """One that the file binds to the loopback stays there."""
    found = {"listen": _chosen(gateway.listen, before.get("listen"), who=gateway.name)}
    bound, port = parse_address(found["listen"])
    if is_everywhere(bound) and gateway.advertise is None:
        found["advertise"] = str(Address(host, port))
    if gateway.admin is not None:
        admin, port = parse_address(gateway.admin)
        if not stays_here(admin):
            admin = host
        wanted = str(Address(admin, port))
        found["admin"] = _chosen(wanted, before.get("admin"), who=gateway.name)
    return found


def _chosen(wanted: str, before: str | None, *, who: str) -> str:
    """``wanted``, with the port that it had ``before`` where it may be any and that one is free."""
    if before is not None and parse_address(wanted).port == 0:
        host = parse_address(wanted).host
        try:
            return claimed(str(Address(host, parse_address(before).port)), who=who)[0]
        except ConfigError:
            pass
    return claimed(wanted, who=who)[0]
