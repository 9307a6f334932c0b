"""Fills in what a deployment file leaves open: ports, sockets, the model's directory.

The result names every address; each process of the deployment reads it and nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import random
import socket
from pathlib import Path

import msgspec

from prfaas.core.addresses import Address, on_this_machine, parse_address, parse_url, stays_here
from prfaas.core.deployment import (
    AgentConfig,
    Deployment,
    EngineConfig,
    GatewayConfig,
    MachineConfig,
    ModelConfig,
)
from prfaas.core.errors import ConfigError
from prfaas.tiny_models import cache as tiny_models

HOST = "127.0.0.1"
# Each free port is handed out once, from a random one on. They lie below what Linux gives outgoing
# connections, none of which can so take one between its claim and its use.
_FREE_PORTS = (16384 + n % 16384 for n in itertools.count(random.randrange(16384)))
_ADVICE = {
    errno.EADDRINUSE: "stop what uses it, or choose another port: in the deployment file, or for "
    "the gateway with --listen",
    errno.EACCES: "choose a port from 1024 on",
}
TINY = "tiny:"
_DEFAULT_MODEL = f"{TINY}gdn"


def resolve(deployment: Deployment, *, sockets: Path) -> Deployment:
    """``deployment`` with every address known.

    Args:
        sockets: directory for Unix sockets; its path must be short (the kernel allows 107 bytes).

    Raises ConfigError for an address that is not ``host:port`` or whose port is taken.
    """
    with contextlib.ExitStack() as held:
        ports = _Ports(held)

        def machine(machine: MachineConfig) -> MachineConfig:
            return msgspec.structs.replace(
                machine,
                engines=tuple(_engine(e, sockets, ports) for e in machine.engines),
                agent=_agent(machine.agent, sockets, ports),
            )

        def gateway(gateway: GatewayConfig) -> GatewayConfig:
            listen = ports.claim(gateway.listen, gateway.name)
            return msgspec.structs.replace(
                gateway, listen=listen, advertise=gateway.advertise or _dialled(listen)
            )

        resolved = deployment.with_machines(machine).with_gateways(gateway)
    return msgspec.structs.replace(resolved, model=local_model(deployment.model))


def publishing(engine: EngineConfig, agent: AgentConfig) -> EngineConfig:
    """``engine``, that has its address, with a place for its KV events where the file names none: a
    socket beside its agent's. Who follows them asks the engine for it.

    Only where that is somebody of its machine: its agent, which has certificates, or whoever
    reaches the engine on loopback.
    """
    assert engine.url is not None
    followed_here = agent.tls is not None or stays_here(parse_url(engine.url).host)
    if engine.kv_events or agent.socket is None or not followed_here:
        return engine
    if engine.option("--kv-events-config") is not None:
        return engine
    return _published(engine, Path(agent.socket).parent)


def free_address() -> str:
    """``host:port`` on which nobody listens."""
    return claimed(f"{HOST}:0", who="a free port")[0]


def claimed(*listen: str, who: str) -> list[str]:
    """Each with port 0 replaced by a free one, no two of them the same. Raises ConfigError for one
    that is taken."""
    with contextlib.ExitStack() as held:
        ports = _Ports(held)
        return [ports.claim(address, who) for address in listen]


class _Ports:
    """Claims ports by binding them, and holds all until the last is claimed."""

    def __init__(self, held: contextlib.ExitStack) -> None:
        self._held = held

    def claim(self, listen: str, who: str) -> str:
        """``listen`` with port 0 replaced by a free one. Raises ConfigError if it is taken."""
        host, port = parse_address(listen, what=f"{who}:")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = self._held.enter_context(socket.socket(family, socket.SOCK_STREAM))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            if port == 0:
                _bind_free(sock, host)
            else:
                sock.bind((host, port))
            sock.listen(1)  # Without it two claims of one port would both succeed.
        except OSError as error:
            advice = _ADVICE.get(error.errno or 0, "write an address of this machine")
            raise ConfigError(
                f"{who}: cannot listen on {listen}: {error.strerror}; {advice}"
            ) from error
        return str(Address(host, sock.getsockname()[1]))


def _bind_free(sock: socket.socket, host: str) -> None:
    for port in itertools.islice(_FREE_PORTS, 100):
        try:
            sock.bind((host, port))
        except OSError:
            continue
        return
    sock.bind((host, 0))  # None of them: whichever the kernel has, or its error.


def _engine(engine: EngineConfig, sockets: Path, ports: _Ports) -> EngineConfig:
    if engine.url is not None:
        return engine
    url = f"http://{ports.claim(f'{HOST}:0', engine.name)}"
    return _published(msgspec.structs.replace(engine, url=url), sockets)


def _published(engine: EngineConfig, sockets: Path) -> EngineConfig:
    """What the file names stays."""
    events = sockets / engine.name
    return msgspec.structs.replace(
        engine,
        kv_events=engine.kv_events or f"ipc://{events}.events",
        kv_events_replay=engine.kv_events_replay or f"ipc://{events}.replay",
    )


def _agent(agent: AgentConfig, sockets: Path, ports: _Ports) -> AgentConfig:
    if agent.external:
        return agent
    listen = ports.claim(agent.listen, agent.name)
    admin = listen if agent.has_one_port else ports.claim(agent.admin, agent.name)
    both = agent.told_of_both
    return msgspec.structs.replace(
        agent,
        listen=listen,
        advertise=agent.advertise or both or _dialled(listen),
        admin=admin,
        admin_advertise=agent.admin_advertise or both or _dialled(admin),
        socket=agent.socket or str(sockets / f"{agent.name}.sock"),
    )


def _dialled(bound: str) -> str | None:
    """Where this machine reaches what is bound on every interface; None: where it is bound."""
    address = parse_address(bound)
    here = on_this_machine(address)
    return None if here == address else str(here)


def served_name(model: ModelConfig) -> str:
    """What clients call it."""
    return model.served_name or (model.path or _DEFAULT_MODEL).replace(TINY, "prfaas-tiny-")


def local_model(model: ModelConfig) -> ModelConfig:
    """``tiny:KIND`` (None: ``tiny:gdn``) becomes the directory of a model made here. Raises
    ConfigError for a directory without a model."""
    path, name = model.path or _DEFAULT_MODEL, served_name(model)
    if path.startswith(TINY):
        path = str(tiny_models.ensure(path.removeprefix(TINY)))
    elif path.startswith(("/", ".", "~")):
        path = str(Path(path).expanduser())
        if not (Path(path) / "config.json").is_file():
            raise ConfigError(f"model {path!r}: no directory with a config.json")
    return msgspec.structs.replace(model, path=path, served_name=name)
