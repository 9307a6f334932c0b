"""A deployment as systemd units: a folder for each machine, and one for each gateway."""

from __future__ import annotations

from collections.abc import Iterable

from prfaas.core.deployment import (
    AgentConfig,
    Deployment,
    EngineConfig,
    GatewayConfig,
    MachineConfig,
)
from prfaas.core.errors import ConfigError

TARGET = "prfaas.target"
_ENGINE_DRAIN_S = 600
_ENGINE_START_S = 1800

_EVERY = """\
User=prfaas
Group=prfaas
UMask=0077
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
LockPersonality=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RemoveIPC=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
"""
"""What no process here needs. AF_NETLINK: the resolver and NCCL ask for the machine's addresses."""

_NO_DEVICES = """\
PrivateDevices=yes
PrivateTmp=yes
MemoryDenyWriteExecute=yes
SystemCallFilter=~@privileged
"""
"""Also of agents and gateways: they open no device and map no code. Engines do both."""


def render(deployment: Deployment, *, prefix: str, file: str) -> dict[str, str]:
    """Files by their paths. ``prefix``: of the virtual environment; ``file``: the deployment file,
    as it lies on the machines. Raises ConfigError where an address is lacking."""
    _check(deployment)
    binary = f"{prefix.rstrip('/')}/bin/prfaas"
    found: dict[str, str] = {}
    for machine in deployment.machines:
        for name, text in _machine(machine, deployment, binary, file).items():
            found[f"{machine.name}/{name}"] = text
    for gateway in deployment.gateways:
        unit = f"prfaas-gateway-{gateway.name}.service"
        found[f"{gateway.name}/{unit}"] = _gateway(gateway, binary, file)
        found[f"{gateway.name}/{TARGET}"] = _target([unit])
    return found


def _machine(
    machine: MachineConfig, deployment: Deployment, binary: str, file: str
) -> dict[str, str]:
    agent = f"prfaas-agent-{machine.agent.name}.service"
    units = {agent: _agent(machine.agent, binary, file)}
    for engine in machine.engines:
        name = f"prfaas-engine-{engine.name}.service"
        units[name] = _engine(engine, deployment, agent, binary, file)
    return {**units, TARGET: _target(units)}


def _agent(agent: AgentConfig, binary: str, file: str) -> str:
    body = [
        "Type=exec",
        f"ExecStart={binary} agent {file} --name {agent.name}",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "RuntimeDirectory=prfaas",
        "RuntimeDirectoryPreserve=yes",
        "LimitNOFILE=65536",
        "LimitMEMLOCK=infinity",
        # Engines lose their transfers with it: it goes last.
        "OOMScoreAdjust=-500",
        "TimeoutStopSec=30",
        *_directory(agent),
    ]
    return _service(f"PrfaaS agent {agent.name}", body, _EVERY + _NO_DEVICES)


def _directory(agent: AgentConfig) -> list[str]:
    """Where it may write what is cached on disk, which nobody else may read."""
    if agent.cache.spill is None:
        return []
    path = agent.cache.spill.path.rstrip("/")
    if path.startswith("/home/"):
        raise ConfigError(f"agent {agent.name}: spill {path}: units see no home; take /var/lib")
    if path.startswith("/var/lib/"):
        return [f"StateDirectory={path.removeprefix('/var/lib/')}", "StateDirectoryMode=0700"]
    return [f"ReadWritePaths=-{path}"]


def _engine(
    engine: EngineConfig, deployment: Deployment, agent: str, binary: str, file: str
) -> str:
    drain = f"-{binary} drain {engine.name} {file}"
    body = [
        "Type=exec",
        "StateDirectory=prfaas",
        "RuntimeDirectory=prfaas",
        "RuntimeDirectoryPreserve=yes",
        "Environment=HOME=/var/lib/prfaas",
        f"ExecStart={binary} engine {engine.name} {file} --run",
        f"ExecStartPost={drain} --undo",
        # Requests on it end first; a gateway that cannot be told does not stop a machine.
        f"ExecStop={drain} --within {_ENGINE_DRAIN_S}s",
        "LimitNOFILE=65536",
        "LimitMEMLOCK=infinity",
        f"TimeoutStartSec={_ENGINE_START_S}",
        f"TimeoutStopSec={_ENGINE_DRAIN_S + 60}",
    ]
    path = deployment.model.path or ""
    if path.startswith("/home/"):
        raise ConfigError(f"model {path}: units see no home; put it under /srv or /var/lib")
    if path.startswith("/"):
        body.append(f"ReadOnlyPaths={path}")
    unit = [f"Requires={agent}", f"After={agent}"]
    return _service(f"PrfaaS engine {engine.name}", body, _EVERY, unit=unit)


def _gateway(gateway: GatewayConfig, binary: str, file: str) -> str:
    state = f"prfaas-{gateway.name}"
    learned = f"/var/lib/{state}/learned.json"
    body = [
        "Type=exec",
        f"StateDirectory={state}",
        f"ExecStart={binary} gateway {file} --name {gateway.name} --learned {learned}",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "LimitNOFILE=65536",
        f"TimeoutStopSec={int(gateway.drain_s) + 15}",
    ]
    if _low_port(gateway):
        # Later than the profile's empty ones.
        body += ["AmbientCapabilities=CAP_NET_BIND_SERVICE"]
    profile = _EVERY + _NO_DEVICES
    if _low_port(gateway):
        profile = profile.replace("AmbientCapabilities=\n", "").replace(
            "CapabilityBoundingSet=\n", "CapabilityBoundingSet=CAP_NET_BIND_SERVICE\n"
        )
    return _service(f"PrfaaS gateway {gateway.name}", body, profile)


def _low_port(gateway: GatewayConfig) -> bool:
    ports = [a.rpartition(":")[2] for a in (gateway.listen, gateway.admin) if a is not None]
    return any(int(port) < 1024 for port in ports)


def _service(
    description: str, body: Iterable[str], profile: str, *, unit: Iterable[str] = ()
) -> str:
    head = [
        "[Unit]",
        f"Description={description}",
        "Wants=network-online.target",
        "After=network-online.target",
        f"PartOf={TARGET}",
        *unit,
        # Tried for ever: what it waits for may come back in an hour.
        "StartLimitIntervalSec=0",
    ]
    restart = ["Restart=always", "RestartSec=2"]
    lines = [*head, "", "[Service]", *body, *restart, "", "# Hardening", profile.rstrip()]
    return "\n".join([*lines, "", "[Install]", f"WantedBy={TARGET}", ""])


def _target(units: Iterable[str]) -> str:
    wants = " ".join(units)
    return (
        f"[Unit]\nDescription=PrfaaS on this machine\nWants={wants}\n\n"
        "[Install]\nWantedBy=multi-user.target\n"
    )


def _check(deployment: Deployment) -> None:
    missing = [f"engine {e.name!r}: url" for e in deployment.engines if e.url is None]
    for agent in deployment.agents:
        if agent.socket is None:
            missing.append(f"agent {agent.name!r}: socket")
        elif not agent.socket.startswith("/run/prfaas/"):
            missing.append(f"agent {agent.name!r}: a socket under /run/prfaas, its only directory")
        for key, address in (("listen", agent.listen), ("admin", agent.admin)):
            if address.endswith(":0"):
                missing.append(f"agent {agent.name!r}: a port for {key}")
    if deployment.model.path is None:
        missing.append("model: path")
    if missing:
        raise ConfigError(f"units need what 'prfaas up' would choose: {'; '.join(missing)}")
