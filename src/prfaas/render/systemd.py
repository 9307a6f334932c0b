"""A deployment as systemd units: a folder for each machine, and one for each gateway."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from prfaas.core.addresses import parse_address, parse_url, stays_here
from prfaas.core.deployment import (
    AgentConfig,
    Deployment,
    EngineConfig,
    GatewayConfig,
    MachineConfig,
)
from prfaas.core.errors import ConfigError

TARGET = "prfaas.target"
ENVIRONMENT = "environment"
"""A file beside the deployment file: the variables that this one names."""
_HIDDEN = ("/home", "/root", "/run/user")
"""What ``ProtectHome`` takes away."""
_ENGINE_DRAIN_S = 600
_ENGINE_START_S = 1800
"""What its last answers may take, and what loading a large model may."""

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
PrivateTmp=yes
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
"""What no process here needs. AF_NETLINK: the resolver and NCCL ask for the machine's addresses.
PrivateTmp: in a strictly protected system nothing else is a place for temporary files."""

_NO_DEVICES = """\
PrivateDevices=yes
MemoryDenyWriteExecute=yes
SystemCallFilter=~@privileged
"""
"""Also of agents and gateways: they open no device and map no code. Engines do both."""


def render(deployment: Deployment, *, prefix: str, file: str) -> dict[str, str]:
    """Files by their paths. ``prefix``: of the virtual environment; ``file``: the deployment file,
    as it lies on the machines. Raises ConfigError where an address is lacking, and for a path that
    units do not see."""
    _check(deployment)
    for what, path in (("--prefix", prefix), ("--file", file), *_paths(deployment)):
        _check_path(what, path)
    units = _Units(deployment, f"{prefix.rstrip('/')}/bin/prfaas", file)
    found: dict[str, str] = {}
    for machine in deployment.machines:
        found |= _folder(machine.name, f"machine-{machine.name}", units.machine(machine))
    for gateway in deployment.gateways:
        unit = {f"prfaas-gateway-{gateway.name}.service": units.gateway(gateway)}
        found |= _folder(gateway.name, f"gateway-{gateway.name}", unit)
    return found


def _folder(name: str, of: str, units: dict[str, str]) -> dict[str, str]:
    """Folders may be put on one machine together: what the target wants is added to it."""
    wants = f"[Unit]\nWants={' '.join(units)}\n"
    files = {**units, TARGET: _TARGET, f"{TARGET}.d/{of}.conf": wants}
    return {f"{name}/{path}": text for path, text in files.items()}


class _Units:
    def __init__(self, deployment: Deployment, binary: str, file: str) -> None:
        self._deployment, self._file = deployment, file
        self._binary, self._shown = _word(binary, command=False), _word(file)

    def machine(self, machine: MachineConfig) -> dict[str, str]:
        agent = f"prfaas-agent-{machine.agent.name}.service"
        units = {agent: self._agent(machine.agent)}
        for engine in machine.engines:
            units[f"prfaas-engine-{engine.name}.service"] = self._engine(engine, agent)
        return units

    def _agent(self, agent: AgentConfig) -> str:
        body = [
            "Type=exec",
            f"ExecStart={self._binary} agent {self._shown} --name {agent.name}",
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
        profile = _bound(_EVERY + _NO_DEVICES, agent.listen, agent.admin)
        return _service(f"PrfaaS agent {agent.name}", body, profile)

    def _engine(self, engine: EngineConfig, agent: str) -> str:
        drain = f"-{self._binary} drain {engine.name} {self._shown}"
        operators = [gateway.operator_keys_env for gateway in self._deployment.gateways]
        body = [
            "Type=exec",
            "StateDirectory=prfaas",
            "RuntimeDirectory=prfaas",
            "RuntimeDirectoryPreserve=yes",
            "Environment=HOME=/var/lib/prfaas",
            *self._environment(engine.api_key_env, *operators),
            f"ExecStart={self._binary} engine {engine.name} {self._shown} --run",
            f"ExecStartPost={drain} --undo",
            # Requests on it end first; a gateway that cannot be told does not stop a machine.
            f"ExecStop={drain} --within {_ENGINE_DRAIN_S}s",
            "LimitNOFILE=65536",
            "LimitMEMLOCK=infinity",
            f"TimeoutStartSec={_ENGINE_START_S}",
            f"TimeoutStopSec={_ENGINE_DRAIN_S + 60}",
        ]
        path = self._deployment.model.path or ""
        if path.startswith("/"):
            body.append(f"ReadOnlyPaths={_word(path, command=False)}")
        # Not Requires: systemd would stop engines whenever an agent that has died is started again.
        unit = [f"Wants={agent}", f"After={agent}"]
        return _service(f"PrfaaS engine {engine.name}", body, _EVERY, unit=unit)

    def gateway(self, gateway: GatewayConfig) -> str:
        state = f"prfaas-{gateway.name}"
        learned = f"/var/lib/{state}/learned.json"
        sources = [*gateway.key_sources, *(engine.keys for engine in self._deployment.engines)]
        body = [
            "Type=exec",
            f"StateDirectory={state}",
            *self._environment(*(source.env for source in sources)),
            f"ExecStart={self._binary} gateway {self._shown} --name {gateway.name}"
            f" --learned {learned}",
            "ExecReload=/bin/kill -HUP $MAINPID",
            "LimitNOFILE=65536",
            f"TimeoutStopSec={int(gateway.drain_s) + 15}",
        ]
        profile = _bound(_EVERY + _NO_DEVICES, gateway.listen, gateway.admin)
        return _service(f"PrfaaS gateway {gateway.name}", body, profile)

    def _environment(self, *variables: str | None) -> list[str]:
        """The file with the variables that keys are in, where a process reads any."""
        path = str(PurePosixPath(self._file).with_name(ENVIRONMENT))
        return [f"EnvironmentFile={_word(path, command=False)}"] if any(variables) else []


def _directory(agent: AgentConfig) -> list[str]:
    """Where it may write what is cached on disk, which nobody else may read."""
    if agent.cache.spill is None:
        return []
    path = agent.cache.spill.path.rstrip("/")
    if path.startswith("/var/lib/"):
        state = _word(path.removeprefix("/var/lib/"), command=False)
        return [f"StateDirectory={state}", "StateDirectoryMode=0700"]
    return [f"ReadWritePaths={_word(f'-{path}', command=False)}"]


def _bound(profile: str, *addresses: str | None) -> str:
    """The profile, with the one capability that a port below 1024 takes."""
    ports = [parse_address(address).port for address in addresses if address is not None]
    if all(port >= 1024 for port in ports):
        return profile
    for key in ("AmbientCapabilities", "CapabilityBoundingSet"):
        profile = profile.replace(f"{key}=\n", f"{key}=CAP_NET_BIND_SERVICE\n")
    return profile


def _word(text: str, *, command: bool = True) -> str:
    """One word of a unit's line, whatever is in it; ``command``: an argument of a command."""
    text = text.replace("%", "%%")
    if command:
        text = text.replace("$", "$$")
    if not set(text) & set(" \t\n\"'\\;"):
        return text
    for plain, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\t", "\\t")):
        text = text.replace(plain, escaped)
    return f'"{text}"'


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
    # SIGTERM to the process that was started alone: it ends its own in order.
    restart = ["Restart=always", "RestartSec=2", "KillMode=mixed"]
    lines = [*head, "", "[Service]", *body, *restart, "", "# Hardening", profile.rstrip()]
    return "\n".join([*lines, "", "[Install]", f"WantedBy={TARGET}", ""])


_TARGET = """\
[Unit]
Description=PrfaaS on this machine

[Install]
WantedBy=multi-user.target
"""


def _paths(deployment: Deployment) -> Iterator[tuple[str, str]]:
    """Paths of the file, and whose they are."""
    path = deployment.model.path or ""
    if path.startswith(("/", ".", "~")):
        yield "model", path
    for agent in deployment.agents:
        if agent.cache.spill is not None:
            yield f"agent {agent.name!r}: spill", agent.cache.spill.path
        if (tls := agent.tls) is not None:
            for file in (tls.ca, tls.cert, tls.key, tls.crl, tls.cache_key):
                if file is not None:
                    yield f"agent {agent.name!r}: tls", file
    for engine in deployment.engines:
        if engine.api_key_file is not None:
            yield f"engine {engine.name!r}: api_key_file", engine.api_key_file
    for gateway in deployment.gateways:
        for file in gateway.secret_files:
            yield f"gateway {gateway.name!r}", file


def _check_path(what: str, path: str) -> None:
    parts = PurePosixPath(path)
    if not parts.is_absolute():
        raise ConfigError(f"{what}: {path}: units start in no directory; give an absolute path")
    if any(parts.is_relative_to(hidden) for hidden in _HIDDEN):
        raise ConfigError(
            f"{what}: {path}: units see no home; put it under /etc/prfaas, /opt, /srv or /var/lib"
        )


def _check(deployment: Deployment) -> None:
    missing = [f"engine {e.name!r}: url" for e in deployment.engines if e.url is None]
    for machine in deployment.machines:
        agent = machine.agent
        if agent.socket is None:
            missing.append(f"agent {agent.name!r}: socket")
        elif not agent.socket.startswith("/run/prfaas/"):
            missing.append(f"agent {agent.name!r}: a socket under /run/prfaas, its only directory")
        missing += _ports(f"agent {agent.name!r}", listen=agent.listen, admin=agent.admin)
        missing += [
            f"engine {e.name!r}: kv_events, which others follow where its agent says plaintext"
            for e in machine.engines
            if agent.plaintext and e.kv_events is None and _leaves(e)
        ]
    for gateway in deployment.gateways:
        missing += _ports(f"gateway {gateway.name!r}", listen=gateway.listen, admin=gateway.admin)
    if deployment.model.path is None:
        missing.append("model: path")
    if missing:
        raise ConfigError(f"units need what 'prfaas up' would choose: {'; '.join(missing)}")


def _ports(who: str, **addresses: str | None) -> list[str]:
    return [
        f"{who}: a port for {key}"
        for key, address in addresses.items()
        if address is not None and not parse_address(address).port
    ]


def _leaves(engine: EngineConfig) -> bool:
    """Whether gateways elsewhere ask it themselves."""
    return engine.url is not None and not stays_here(parse_url(engine.url).host)
