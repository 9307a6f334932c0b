"""What a deployment file says to one agent."""

from __future__ import annotations

from pathlib import Path

import msgspec

from prfaas.agent.engine_caches import EngineReach
from prfaas.core.addresses import Address, is_everywhere, parse_address
from prfaas.core.deployment import (
    AgentConfig,
    ClusterConfig,
    Deployment,
    EngineConfig,
    Line,
    MachineConfig,
    SpillConfig,
    lines_of,
)
from prfaas.core.errors import ConfigError
from prfaas.core.handoff import LONGEST_DEADLINE_S
from prfaas.link.tcp.config import (
    LEAST_INCOMING,
    PeerConfig,
    Plaintext,
    SharedLine,
    TcpLinkConfig,
)
from prfaas.process.descriptors import share_of_files
from prfaas.tls.files import TlsFiles, files_in

_STRANGERS_SHARE = 8
"""Of all descriptors strangers at the link's door have this part at most."""


class AgentSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``link`` is None where no link of the deployment ends here. ``export_slots``: see
    `pool.slots`; ``cache_slots``: see `pool.cache`."""

    name: str
    arena_bytes: int
    slot_bytes: int
    export_slots: int
    cache_slots: int
    engines: frozenset[str]
    socket: Path
    admin: str
    link: TcpLinkConfig | None
    one_port: Address | None = None
    """Where both come to, the KV link and HTTP."""
    tls: TlsFiles | None = None
    """Of HTTP, where it is not plaintext."""
    cache_key: Path | None = None
    """Of what gateways are told of engines' caches; None: they follow engines themselves."""
    reach: tuple[EngineReach, ...] = ()
    """The machine's engines, as far as it is known where they are."""
    gateways: frozenset[str] = frozenset()
    """Who may ask it for everything, by name."""
    longest_deadline_s: float = LONGEST_DEADLINE_S
    """No transfer is wanted longer than the request that it is for."""
    spill: SpillConfig | None = None
    """The cache's second tier, if there is to be one."""


def settings_for(deployment: Deployment, name: str, *, socket: Path | None = None) -> AgentSettings:
    """The part of agent ``name``. ``socket`` goes before the file's.

    Raises ConfigError for an unknown agent, missing socket or security, an unreachable peer.
    """
    machine = _machine_of(deployment, name)
    agent = machine.agent
    if socket is None and agent.socket is None:
        raise ConfigError(f"agent {name!r}: say where engines connect: socket: PATH, or --socket")
    admin = parse_address(agent.admin)
    slot_count = agent.arena_bytes // agent.slot_bytes
    cluster = next(c for c in deployment.clusters if machine in c.machines)
    link = _link(deployment, agent)
    return AgentSettings(
        name=name,
        arena_bytes=agent.arena_bytes,
        slot_bytes=agent.slot_bytes,
        export_slots=_export_slots(cluster, machine, slot_count),
        cache_slots=agent.cache_slots,
        engines=frozenset(engine.name for engine in machine.engines),
        socket=socket or Path(agent.socket or ""),
        admin=agent.admin,
        link=link,
        one_port=admin if agent.has_one_port and link is not None else None,
        tls=None if agent.tls is None else files_in(agent.tls),
        cache_key=None if agent.tls is None else Path(agent.tls.cache_key_file),
        reach=tuple(_reach(engine) for engine in machine.engines if engine.url is not None),
        spill=agent.cache.spill,
        gateways=frozenset(g.certificate_name or g.name for g in deployment.gateways),
        longest_deadline_s=min(
            LONGEST_DEADLINE_S, max(g.longest_deadline_s for g in deployment.gateways)
        ),
    )


def _reach(engine: EngineConfig) -> EngineReach:
    return EngineReach(
        name=engine.name,
        url=engine.url or "",
        kv_events=engine.kv_events,
        kv_events_replay=engine.kv_events_replay,
        ca=engine.ca,
    )


def _export_slots(cluster: ClusterConfig, machine: MachineConfig, slot_count: int) -> int:
    """A quarter where answers are made, which take whole prompts in at once; half on a machine that
    begins with prefill engines alone, any of which may come to decode. In a PrfaaS cluster all but
    what cached prefixes may take while they are read."""
    if cluster.kind == "prfaas":
        return slot_count - min(machine.agent.cache_slots, slot_count // 2)
    return max(1, slot_count // (4 if machine.has("decode") else 2))


def _machine_of(deployment: Deployment, name: str) -> MachineConfig:
    for machine in deployment.machines:
        if machine.agent.name == name:
            return machine
    known = ", ".join(sorted(agent.name for agent in deployment.agents))
    raise ConfigError(f"no agent {name!r} in the deployment; known: {known}")


def _link(deployment: Deployment, agent: AgentConfig) -> TcpLinkConfig | None:
    """Its part of every line that begins or ends here."""
    peers: dict[str, PeerConfig] = {}
    accept_from: set[str] = set()
    incoming = 0
    shared: list[SharedLine] = []
    for line in lines_of(deployment):
        shared += _shared(line, agent)
        receivers = {other.name: other for other in line.receivers}
        for pair in line.pairs:
            if pair.sender == agent.name:
                peers[pair.receiver] = _peer(line, receivers[pair.receiver])
            elif pair.receiver == agent.name:
                accept_from.add(pair.sender)
                incoming += max(1, line.fair_connections or line.most_connections)
    if not peers and not accept_from:
        return None
    return TcpLinkConfig(
        name=agent.name,
        security=_security(agent),
        listen=agent.listen,
        peers=peers,
        lines=tuple(shared),
        accept_from=frozenset(accept_from),
        # Twice: one peer may have half of them, and leaves all others theirs.
        max_incoming_connections=max(LEAST_INCOMING, 2 * incoming),
        dscp=agent.dscp,
        workers=agent.link_workers,
    )


def by_descriptors(link: TcpLinkConfig) -> TcpLinkConfig:
    """Strangers at its door have a part of those that this process may have."""
    most = share_of_files(_STRANGERS_SHARE, most=link.max_pending_connections)
    return msgspec.structs.replace(link, max_pending_connections=most)


def _shared(line: Line, agent: AgentConfig) -> list[SharedLine]:
    """The line, where it has a rate that several pairs share and this agent is at one of its ends;
    who has no partner there takes no share."""
    ends = {end for pair in line.pairs for end in pair}
    if line.rate_bytes_per_s is None or len(line.pairs) < 2 or agent.name not in ends:
        return []
    senders = {pair.sender for pair in line.pairs}
    return [
        SharedLine(
            rate_bytes_per_s=line.rate_bytes_per_s,
            senders=tuple(a.name for a in line.senders if a.name in senders),
            receivers=tuple(a.name for a in line.receivers),
        )
    ]


def _peer(line: Line, receiver: AgentConfig) -> PeerConfig:
    address = line.address_of(receiver)
    host, port = parse_address(address)
    if port == 0:
        raise ConfigError(f"agent {receiver.name!r}: its address {address!r} needs a fixed port")
    if is_everywhere(host):
        raise ConfigError(
            f"agent {receiver.name!r} listens on every interface; say with 'advertise: HOST:PORT' "
            "where others reach it"
        )
    return PeerConfig(
        address=address,
        rate_bytes_per_s=line.rate_bytes_per_s,
        leave_to_others=line.leave_to_others,
        connections=line.fair_connections,
        most_connections=line.most_connections,
    )


def _security(agent: AgentConfig) -> TlsFiles | Plaintext:
    if agent.tls is not None:
        return files_in(agent.tls)
    if agent.plaintext:
        return Plaintext()
    raise ConfigError(
        f"agent {agent.name!r}: give tls: {{ca, cert, key}} ('prfaas certs' makes them), "
        "or plaintext: true for a line that is protected otherwise"
    )
