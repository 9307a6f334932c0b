"""Machines that are alike, as pods that can be any number: what a StatefulSet is made of.

A machine of the deployment file becomes a pod: an agent and engines that share its memory. Those of
a cluster that differ in nothing but names and addresses are one group; its pods are numbered
(``west-0``, ``west-1``), and everything in a pod is called by the pod's name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from prfaas.core.deployment import (
    AgentConfig,
    ClusterConfig,
    Deployment,
    EngineConfig,
    MachineConfig,
)
from prfaas.core.errors import ConfigError
from prfaas.render.identity import files_of
from prfaas.render.keys import KEYS, check_apart, key_name
from prfaas.render.sites import Site

POD = "{pod}"
"""Where the pod's name stands in a group's machine."""
LINK_PORT, ADMIN_PORT = 7400, 7401
ENGINE_PORT, EVENTS_PORT = 8001, 5557
LOOPBACK = "127.0.0.1"
SOCKET = "/run/prfaas/agent.sock"

_LABEL = re.compile(r"[a-z]([a-z0-9-]{0,28}[a-z0-9])?\Z")
"""A DNS label that leaves room for what is appended: ``-12-prefill-0``."""
_HOSTS = frozenset({"--nnodes", "--node-rank", "--master-addr", "--headless"})
_SERVICES = frozenset({"gateway", "gateways"})
"""What Services of gateways are called, which stand beside those of machines."""


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Pods ``NAME-0`` to ``NAME-(replicas-1)``; ``machine`` has `POD` for a pod's name."""

    name: str
    cluster: str
    domain: str
    replicas: int
    machine: MachineConfig
    gpus: tuple[int, ...]
    """Of each of its engines."""

    def host(self, pod: str = POD) -> str:
        """The name by which a pod is found."""
        return f"{pod}.{self.domain}"


def label(name: str, *, what: str) -> str:
    """``name``, where Kubernetes can call something by it. Raises ConfigError."""
    if not _LABEL.match(name):
        raise ConfigError(
            f"{what} {name!r}: Kubernetes needs small letters, digits and hyphens, a letter first, "
            "30 at most; rename it"
        )
    if what == "cluster" and name in _SERVICES:
        raise ConfigError(f"cluster {name!r}: gateways' Services are called so; rename it")
    return name


def groups_of(cluster: ClusterConfig, site: Site) -> tuple[Group, ...]:
    """The groups of a cluster, in the order of the file. Raises ConfigError."""
    alike: dict[bytes, list[MachineConfig]] = {}
    for machine in cluster.machines:
        for engine in machine.engines:
            _check(engine)
        _check_apart(machine)
        alike.setdefault(msgspec.json.encode(_bare(machine)), []).append(machine)
    if not alike:
        raise ConfigError(f"cluster {cluster.name!r} has no machine: it is only planned")
    name = label(cluster.name, what="cluster")
    return tuple(
        _group(name if len(alike) == 1 else f"{name}-{'abcdefghij'[at]}", cluster, site, machines)
        for at, machines in enumerate(_few(alike, cluster))
    )


def _few(
    alike: dict[bytes, list[MachineConfig]], cluster: ClusterConfig
) -> list[list[MachineConfig]]:
    if len(alike) > 10:
        raise ConfigError(
            f"cluster {cluster.name!r}: its machines are of {len(alike)} kinds, 10 at most; give "
            "those that are alike the same engines and agent but for names and addresses"
        )
    return list(alike.values())


def _group(name: str, cluster: ClusterConfig, site: Site, machines: list[MachineConfig]) -> Group:
    domain = site.domain(name)
    first = machines[0]
    return Group(
        name=name,
        cluster=cluster.name,
        domain=domain,
        replicas=len(machines),
        gpus=tuple(gpus_of(engine) for engine in first.engines),
        machine=MachineConfig(
            name=POD,
            agent=_agent(first.agent, f"{POD}.{domain}"),
            engines=tuple(_engines(first, f"{POD}.{domain}")),
        ),
    )


def _agent(agent: AgentConfig, host: str) -> AgentConfig:
    return msgspec.structs.replace(
        agent,
        name=f"{POD}-agent",
        listen=f"0.0.0.0:{LINK_PORT}",
        advertise=f"{host}:{LINK_PORT}",
        admin=f"0.0.0.0:{ADMIN_PORT}",
        admin_advertise=f"{host}:{ADMIN_PORT}",
        socket=SOCKET,
        tls=files_of(agent),
        external=False,
    )


def _engines(machine: MachineConfig, host: str) -> Iterator[EngineConfig]:
    roles = [engine.role for engine in machine.engines]
    # Where the agent carries what gateways say to engines, nobody else reaches them, and it hears
    # of their caches by sockets beside its own (`prfaas engine` names them).
    is_open = machine.agent.plaintext
    for at, engine in enumerate(machine.engines):
        several = roles.count(engine.role) > 1
        number = f"-{roles[:at].count(engine.role)}" if several else ""
        events = EVENTS_PORT + 2 * at
        yield msgspec.structs.replace(
            engine,
            name=f"{POD}-{engine.role}{number}",
            url=f"http://{host if is_open else LOOPBACK}:{ENGINE_PORT + at}",
            ca=None,
            kv_events=f"tcp://*:{events}" if is_open else None,
            kv_events_replay=f"tcp://*:{events + 1}" if is_open else None,
            gpus=None,
            api_key_file=key_file(engine.api_key_file),
            # The last one counts: the pod's name is known to others before it is known to itself.
            args=(*engine.args, "--host", "0.0.0.0" if is_open else LOOPBACK),
        )


def key_file(path: str | None) -> str | None:
    """Where a file of keys lies in a pod."""
    return None if path is None else f"{KEYS}/engines/{key_name(path)}"


def gpus_of(engine: EngineConfig) -> int:
    """How many GPUs an engine asks for."""
    if engine.gpus is not None:
        return len([gpu for gpu in engine.gpus.split(",") if gpu.strip()])
    size = engine.option("--tensor-parallel-size", "-tp") or "1"
    return int(size) if size.isdecimal() else 1


def _check(engine: EngineConfig) -> None:
    for argument in engine.args:
        if argument.partition("=")[0] in _HOSTS:
            raise ConfigError(
                f"engine {engine.name!r}: {argument}: an engine of several hosts is not supported, "
                "its ranks share one agent's memory; write an engine that fits into one machine"
            )
    if (engine.url or "").startswith("https:"):
        raise ConfigError(
            f"engine {engine.name!r}: url {engine.url}: a pod's engine speaks to its own agent, "
            "which has the certificate; leave url and the arguments for TLS out"
        )
    if engine.cpus is not None or "VLLM_CPU_OMP_THREADS_BIND" in engine.env:
        raise ConfigError(
            f"engine {engine.name!r}: cores are pinned (cpus, VLLM_CPU_OMP_THREADS_BIND): which "
            "ones a pod may use its node decides; leave them out"
        )
    if "CUDA_VISIBLE_DEVICES" in engine.env:
        raise ConfigError(
            f"engine {engine.name!r}: env: CUDA_VISIBLE_DEVICES: Kubernetes gives an engine its "
            "GPUs, as many as its ranks; leave it out"
        )


def _check_apart(machine: MachineConfig) -> None:
    """Raise ConfigError where engines share a GPU: containers get whole ones."""
    taken: dict[str, str] = {}
    for engine in machine.engines:
        for gpu in filter(None, map(str.strip, (engine.gpus or "").split(","))):
            other = taken.setdefault(gpu, engine.name)
            if other != engine.name:
                raise ConfigError(
                    f"engines {other!r} and {engine.name!r} share GPU {gpu}: Kubernetes gives each "
                    "container GPUs of its own; name others, or write one engine"
                )


def _bare(machine: MachineConfig) -> MachineConfig:
    """A machine without what is its own: names and addresses."""
    return MachineConfig(
        name="m",
        agent=msgspec.structs.replace(_agent(machine.agent, "h"), name="a"),
        engines=tuple(
            msgspec.structs.replace(engine, name="e", gpus=str(gpus_of(of)))
            for engine, of in zip(_engines(machine, "h"), machine.engines, strict=True)
        ),
    )


def all_groups(deployment: Deployment, sites: dict[str, Site]) -> tuple[Group, ...]:
    """Of every cluster. Raises ConfigError."""
    found = [g for c in deployment.clusters for g in groups_of(c, sites[c.name])]
    names = [group.name for group in found]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two groups of pods would be called {name!r}; rename a cluster")
        for cluster in deployment.clusters:
            if re.fullmatch(rf"{name}-\d+", cluster.name):
                raise ConfigError(
                    f"cluster {cluster.name!r}: a pod of {name!r} may be called so; rename one"
                )
    engines = deployment.engines
    files, variables = [e.api_key_file for e in engines], [e.api_key_env for e in engines]
    check_apart("engine-keys", files, variables)
    return tuple(found)
