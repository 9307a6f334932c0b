"""A group of machines as a StatefulSet: pods of an agent and engines that share its memory."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import PurePosixPath

from prfaas.core.deployment import EngineConfig, ModelConfig
from prfaas.core.errors import ConfigError
from prfaas.core.units import parse_bytes
from prfaas.render import identity
from prfaas.render.groups import ADMIN_PORT, ENGINE_PORT, LINK_PORT, POD, Group
from prfaas.render.keys import KEYS, key_volume
from prfaas.render.objects import (
    COMMON_VOLUMES,
    FILE,
    MACHINE,
    POD_SECURITY,
    Object,
    container,
    disruptions,
    from_field,
    http_probe,
    labels,
    members,
    thing,
)
from prfaas.render.options import Images

_MIB = 1024 * 1024
_TAKEN = ("/bin", "/dev", "/etc", "/home/prfaas", "/lib", "/opt/prfaas", "/proc",
          "/run/prfaas", "/run/prfaas-deployment", "/sbin", "/sys", "/tmp", "/usr")  # fmt: skip
"""Where images and pods have what they need."""
_DRAIN_S = 600
"""How long an engine's requests may take to their end before its pod goes."""
_AGENT_MIB = 512
"""Of an agent beside its arena."""
_ARENA_MIB = 16
"""Of /dev/shm beside the arena."""
_SPILL_MIB = 64
"""Of a volume for cached prefixes, beside them."""
_CPU_ENGINE_MIB = 4096
"""Of an engine on the CPU beside its cache: vLLM, torch, a small model."""


def machine_objects(group: Group, model: ModelConfig, images: Images) -> list[Object]:
    """StatefulSet, headless Service and PodDisruptionBudget of one group."""
    selector = {"matchLabels": labels(MACHINE, group.name)}
    service = thing(
        "v1",
        "Service",
        group.name,
        spec={
            "clusterIP": "None",
            # A pod is a member before it is ready: its agent's peers dial it, its engines load.
            "publishNotReadyAddresses": True,
            "selector": labels(MACHINE, group.name),
            "ports": [
                {"name": "kv-link", "port": LINK_PORT},
                {"name": "admin", "port": ADMIN_PORT},
            ],
        },
    )
    budget = thing(
        "policy/v1",
        "PodDisruptionBudget",
        group.name,
        spec=disruptions(selector),
    )
    sets = thing(
        "apps/v1",
        "StatefulSet",
        group.name,
        spec={
            "serviceName": group.name,
            "replicas": group.replicas,
            "podManagementPolicy": "Parallel",
            "selector": selector,
            "template": {
                "metadata": {"labels": labels(MACHINE, group.name)},
                "spec": _pod(group, model, images),
            },
        },
    )
    return [service, budget, sets]


def _pod(group: Group, model: ModelConfig, images: Images) -> Object:
    machine = group.machine
    arena_mib = _mib(machine.agent.arena_bytes) + _ARENA_MIB
    volumes: list[Object] = [
        *COMMON_VOLUMES,
        {"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}},
        {"name": "arena", "emptyDir": {"medium": "Memory", "sizeLimit": f"{arena_mib}Mi"}},
        {"name": "home", "emptyDir": {}},
        key_volume("operator-key"),
    ]
    if any(engine.api_key_file for engine in machine.engines):
        volumes.append(key_volume("engine-keys"))
    if not machine.agent.plaintext:
        volumes += identity.volumes("${POD_NAME}-agent")
    spill = machine.agent.cache.spill
    if spill is not None:
        spill_mib = _mib(spill.most_bytes) + _SPILL_MIB
        volumes.append({"name": "spill", "emptyDir": {"sizeLimit": f"{spill_mib}Mi"}})
    if on_disk(model):
        volumes.append(
            {"name": "model", "persistentVolumeClaim": {"claimName": "model", "readOnly": True}}
        )
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": POD_SECURITY,
        "terminationGracePeriodSeconds": _DRAIN_S + 60,
        "initContainers": [
            members(images.base, ["--own-pod", "$(POD_NAME)", "--own-address", "$(POD_IP)"]),
            _agent(group, images),
        ],
        "containers": [
            _engine(group, at, engine, model, images) for at, engine in enumerate(machine.engines)
        ],
        "volumes": volumes,
    }


def _agent(group: Group, images: Images) -> Object:
    agent = group.machine.agent
    arena_mib = _mib(agent.arena_bytes)
    mounts: list[Object] = [
        {"name": "deployment", "mountPath": "/run/prfaas-deployment", "readOnly": True},
        {"name": "run", "mountPath": "/run/prfaas"},
        {"name": "arena", "mountPath": "/dev/shm"},
        {"name": "scratch", "mountPath": "/tmp"},
    ]
    if agent.cache.spill is not None:
        # What it lies in: the directory itself the agent makes, for its own user alone.
        spill = agent.cache.spill.path
        above = PurePosixPath(spill).parent
        if _hides(above) or any(above.is_relative_to(taken) for taken in _TAKEN):
            raise ConfigError(
                f"cluster {group.cluster!r}: spill {spill}: a volume is mounted at what it lies "
                f"in, {above}, which the pod needs; take one such as /var/lib/prfaas/kv"
            )
        mounts.append({"name": "spill", "mountPath": str(above)})
    if not agent.plaintext:
        mounts += identity.mounts()
    probe = partial(http_probe, ADMIN_PORT, "/health") if agent.plaintext else _opens
    return container(
        "agent",
        images.base,
        ["prfaas", "agent", FILE, "--name", "$(POD_NAME)-agent"],
        # A sidecar: it starts before the engines and ends after them.
        restartPolicy="Always",
        env=[from_field("POD_NAME", "metadata.name")],
        ports=[
            {"name": "kv-link", "containerPort": LINK_PORT},
            {"name": "admin", "containerPort": ADMIN_PORT},
        ],
        startupProbe=probe(period_s=1, failures=120),
        livenessProbe=probe(period_s=10, failures=6),
        resources={
            "requests": {"cpu": "1", "memory": f"{arena_mib + _AGENT_MIB}Mi"},
            "limits": {"memory": f"{arena_mib + 4 * _AGENT_MIB}Mi"},
        },
        volumeMounts=mounts,
    )


def _engine(
    group: Group, at: int, engine: EngineConfig, model: ModelConfig, images: Images
) -> Object:
    port, gpus = ENGINE_PORT + at, group.gpus[at]
    name = engine.name.removeprefix(f"{POD}-")
    mounts: list[Object] = [
        {"name": "deployment", "mountPath": "/run/prfaas-deployment", "readOnly": True},
        {"name": "run", "mountPath": "/run/prfaas"},
        {"name": "shm", "mountPath": "/dev/shm"},
        {"name": "home", "mountPath": "/home/prfaas"},
        {"name": "scratch", "mountPath": "/tmp"},
        {"name": "operator-key", "mountPath": f"{KEYS}/operator", "readOnly": True},
    ]
    if not group.machine.agent.plaintext:
        mounts.append(identity.authority_mount())
    on_loopback = not group.machine.agent.plaintext
    probe = partial(_asks_itself if on_loopback else partial(http_probe, path="/health"), port)
    if engine.api_key_file is not None:
        mounts.append({"name": "engine-keys", "mountPath": f"{KEYS}/engines", "readOnly": True})
    if on_disk(model):
        if _hides(PurePosixPath(str(model.path))):
            raise ConfigError(
                f"model {model.path}: a volume is mounted there, and the pod needs what lies "
                "there; take a path such as /srv/models/NAME"
            )
        mounts.append({"name": "model", "mountPath": str(model.path), "readOnly": True})
    return container(
        name,
        images.engine,
        ["prfaas", "engine", f"$(POD_NAME)-{name}", FILE, "--run"],
        env=[
            from_field("POD_NAME", "metadata.name"),
            {"name": "HOME", "value": "/home/prfaas"},
            *_key_variable(engine),
        ],
        ports=[{"name": f"http-{at}", "containerPort": port}],
        startupProbe=probe(period_s=5, failures=360),
        readinessProbe=probe(period_s=5, failures=3),
        livenessProbe=probe(period_s=20, failures=6),
        lifecycle={
            "postStart": _told(name, "--undo --within '10 s'"),
            "preStop": _told(name, f"--within '{_DRAIN_S} s'"),
        },
        resources=_resources(engine, model, gpus, vllm=images.vllm),
        volumeMounts=mounts,
    )


def _opens(*, period_s: int, failures: int) -> Object:
    """Whether the agent listens: to speak to it takes a certificate, which a kubelet has not."""
    return {
        "tcpSocket": {"port": ADMIN_PORT},
        "periodSeconds": period_s,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _asks_itself(port: int, *, period_s: int, failures: int) -> Object:
    """An engine on loopback is asked from within its container."""
    asks = f"import urllib.request as u; u.urlopen('http://127.0.0.1:{port}/health', timeout=4)"
    return {
        "exec": {"command": ["python3", "-c", asks]},
        "periodSeconds": period_s,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _told(engine: str, how: str) -> Object:
    """Drain at every gateway, or the contrary. A gateway that is gone does not stop a pod."""
    script = f'prfaas drain "$POD_NAME-{engine}" {shlex.quote(FILE)} {how} || true'
    return {"exec": {"command": ["sh", "-c", script]}}


def _key_variable(engine: EngineConfig) -> list[Object]:
    if engine.api_key_env is None:
        return []
    key = {"name": "engine-keys", "key": engine.api_key_env}
    return [{"name": engine.api_key_env, "valueFrom": {"secretKeyRef": key}}]


def _resources(engine: EngineConfig, model: ModelConfig, gpus: int, *, vllm: str) -> Object:
    cache_mib = _mib(parse_bytes(model.kv_cache))
    if vllm == "cpu":
        memory = f"{cache_mib + _CPU_ENGINE_MIB}Mi"
        return {"requests": {"cpu": "1", "memory": memory}, "limits": {"memory": memory}}
    # What vLLM needs on the host is by its model: an overlay that knows it gives a limit.
    return {
        "requests": {"cpu": str(4 * gpus), "memory": f"{16 * gpus}Gi"},
        "limits": {"nvidia.com/gpu": str(gpus)},
    }


def _hides(mounted: PurePosixPath) -> bool:
    return any(PurePosixPath(taken).is_relative_to(mounted) for taken in _TAKEN)


def _mib(size_bytes: int) -> int:
    """So many, rounded up."""
    return -(-size_bytes // _MIB)


def on_disk(model: ModelConfig) -> bool:
    """Whether it is a directory, for which a volume is mounted."""
    return (model.path or "").startswith("/")
