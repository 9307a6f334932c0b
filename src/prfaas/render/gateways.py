"""The gateways of a PD cluster as a Deployment behind a Service, and as the template's entry."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import msgspec

from prfaas.core.deployment import Deployment, GatewayConfig
from prfaas.core.errors import ConfigError
from prfaas.render import identity
from prfaas.render.keys import KEYS, OPERATOR_KEY, check_apart, key_name, key_volume
from prfaas.render.membership import ADDRESS, GatewayGroup
from prfaas.render.objects import (
    COMMON_VOLUMES,
    FILE,
    GATEWAY,
    POD_SECURITY,
    Object,
    container,
    disruptions,
    http_probe,
    labels,
    members,
    thing,
)
from prfaas.render.options import Plan, said

PORT, ADMIN = 8000, 9090
SERVICE, EACH = "gateway", "gateways"
"""Clients' Service, and the headless one that has the address of each."""
_CLIENT_KEYS = f"{KEYS}/clients"
_ENDING_S = 15
"""For load balancers to look away first, and to tell clients whose answers were cut."""
_MIB = 1024 * 1024
_MEMORY_MIB, _BLOCK_BYTES, _TOKEN_BYTES = 4096, 75, 10
"""Of a gateway whose limits are the defaults; of a block that its index knows more than by default,
and of a prompt's token that may wait more."""


def stands_in(gateway: GatewayConfig, deployment: Deployment) -> str:
    """The PD cluster whose Kubernetes cluster runs this gateway."""
    return gateway.near or next(c.name for c in deployment.clusters if c.kind == "pd")


def gateways_at(cluster: str, deployment: Deployment) -> list[GatewayConfig]:
    """Those that run beside a cluster. Raises ConfigError where they are not alike: where they
    differ in more than names, addresses and certificates, all of which pods have of their own."""
    found = [g for g in deployment.gateways if stands_in(g, deployment) == cluster]
    entries = [_entry(gateway, cluster, deployment) | {"name": "g"} for gateway in found]
    alike = {msgspec.json.encode(entry, order="sorted") for entry in entries}
    if len(alike) > 1:
        raise ConfigError(
            f"gateways near {cluster!r} differ in more than names, addresses and certificates; as "
            "pods of one Deployment they must be alike"
        )
    sources = [keys for gateway in found for keys in gateway.tenant_keys.values()]
    check_apart("client-keys", [k.file for k in sources], [k.env for k in sources])
    return found


def template_entry(cluster: str, plan: Plan) -> GatewayGroup:
    """What a gateway of this cluster is in the deployment file. Raises ConfigError for what pods
    cannot have."""
    gateway = gateways_at(cluster, plan.deployment)[0]
    return GatewayGroup(
        service=plan.sites[cluster].domain(EACH), gateway=_entry(gateway, cluster, plan.deployment)
    )


def _entry(gateway: GatewayConfig, cluster: str, deployment: Deployment) -> dict[str, Any]:
    _refuse(gateway)
    entry: dict[str, Any] = said(gateway)
    for own in ("advertise", "agent_tls", "certificate_name", "operator_keys_env"):
        entry.pop(own, None)
    entry |= {
        "listen": f"{ADDRESS}:{PORT}",
        "admin": f"{ADDRESS}:{ADMIN}",
        "near": cluster,
        "operator_keys_file": f"{KEYS}/operator/{OPERATOR_KEY['key']}",
    }
    if gateway.api_keys_file is not None:
        entry["api_keys_file"] = _client_file(gateway.api_keys_file)
    for tenant in entry.get("tenants", ()):
        if tenant.get("api_keys_file"):
            tenant["api_keys_file"] = _client_file(tenant["api_keys_file"])
    if not identity.is_secured(deployment):
        entry["plaintext"] = True  # All agents say so, of the same network.
    else:
        entry |= {"agent_tls": said(identity.FILES), "certificate_name": identity.GATEWAYS}
    if gateway.tls is not None:
        entry["tls"] = {"cert": "/etc/prfaas/front/tls.crt", "key": "/etc/prfaas/front/tls.key"}
    return entry


def keeps_metrics(deployment: Deployment) -> bool:
    """Whether gateways show metrics to operators alone: where all of them have several tenants."""
    return len(frozenset[str]().union(*(g.tenant_keys for g in deployment.gateways))) > 1


def gateway_objects(cluster: str, plan: Plan) -> list[Object]:
    """Deployment, Services, PodDisruptionBudget and HorizontalPodAutoscaler."""
    every = gateways_at(cluster, plan.deployment)
    replicas, pod = len(every), labels(GATEWAY, cluster)
    selector = {"matchLabels": pod}
    spec = {
        "replicas": replicas,
        "selector": selector,
        "strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "template": {"metadata": {"labels": pod}, "spec": _pod(every[0], cluster, plan)},
    }
    scale = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": SERVICE},
        "minReplicas": replicas,
        "maxReplicas": max(4, 4 * replicas),
        "metrics": [
            {
                "type": "Resource",
                "resource": {
                    "name": "cpu",
                    # A gateway is one process on one core.
                    "target": {"type": "Utilization", "averageUtilization": 60},
                },
            }
        ],
    }
    return [
        thing("v1", "Service", SERVICE, spec={
            "selector": pod, "ports": [{"name": "http", "port": PORT, "targetPort": "http"}]}),
        thing("v1", "Service", EACH, spec={
            "clusterIP": "None", "selector": pod,
            "ports": [{"name": "admin", "port": ADMIN, "targetPort": "admin"}]}),
        thing("policy/v1", "PodDisruptionBudget", SERVICE,
              spec=disruptions(selector)),
        thing("apps/v1", "Deployment", SERVICE, spec=_scaled(spec)),
        thing("autoscaling/v2", "HorizontalPodAutoscaler", SERVICE, spec=scale),
    ]  # fmt: skip


def _scaled(spec: Object) -> Object:
    """Without a number of replicas: applied again it would undo what the autoscaler did."""
    return {key: value for key, value in spec.items() if key != "replicas"}


def _pod(gateway: GatewayConfig, cluster: str, plan: Plan) -> Object:
    volumes = [
        *COMMON_VOLUMES,
        {"name": "state", "emptyDir": {}},
        key_volume("operator-key"),
    ]
    mounts: list[Object] = [
        {"name": "deployment", "mountPath": "/run/prfaas-deployment", "readOnly": True},
        {"name": "state", "mountPath": "/var/lib/prfaas"},
        {"name": "scratch", "mountPath": "/tmp"},
        {"name": "operator-key", "mountPath": f"{KEYS}/operator", "readOnly": True},
    ]
    if identity.is_secured(plan.deployment):
        volumes += identity.volumes(identity.GATEWAYS)
        mounts += identity.mounts()
    for name, secret, path, needed in (
        ("client-keys", "client-keys", _CLIENT_KEYS, any(
            keys.file for keys in gateway.tenant_keys.values())),
        ("engine-keys", "engine-keys", f"{KEYS}/engines", any(
            engine.api_key_file for engine in plan.deployment.engines)),
        ("front", "gateway-tls", "/etc/prfaas/front", gateway.tls is not None),
    ):  # fmt: skip
        if needed:
            volumes.append(key_volume(name, secret))
            mounts.append({"name": name, "mountPath": path, "readOnly": True})
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": POD_SECURITY,
        "terminationGracePeriodSeconds": int(gateway.drain_s) + _ENDING_S,
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": labels(GATEWAY, cluster)},
            }
        ],
        "initContainers": [
            members(
                plan.images.base,
                ["--own-gateway", "$(POD_IP)", "--own-service", plan.sites[cluster].domain(EACH)],
            )
        ],
        "containers": [_container(gateway, plan, mounts)],
        "volumes": volumes,
    }


def _container(gateway: GatewayConfig, plan: Plan, mounts: list[Object]) -> Object:
    command = ["prfaas", "gateway", FILE, "--learned", "/var/lib/prfaas/learned.json"]
    probe = partial(http_probe, ADMIN, tls=identity.is_secured(plan.deployment))
    return container(
        "gateway",
        plan.images.base,
        command,
        env=list(_key_variables(gateway, plan.deployment)),
        ports=[
            {"name": "http", "containerPort": PORT},
            {"name": "admin", "containerPort": ADMIN},
        ],
        startupProbe=probe("/health", period_s=1, failures=120),
        readinessProbe=probe("/ready", period_s=2, failures=2),
        livenessProbe=probe("/health", period_s=10, failures=6),
        # Until no load balancer sends to it; then SIGTERM, and it drains by itself.
        lifecycle={"preStop": {"exec": {"command": ["sleep", "5"]}}},
        resources={
            "requests": {"cpu": "1", "memory": "1Gi"},
            "limits": {"memory": f"{_memory_mib(gateway)}Mi"},
        },
        volumeMounts=mounts,
    )


def _memory_mib(gateway: GatewayConfig) -> int:
    """What the file lets it hold more than by default comes on top."""
    usual = GatewayConfig()
    more = (
        gateway.max_bodies_bytes - usual.max_bodies_bytes,
        (gateway.max_index_blocks - usual.max_index_blocks) * _BLOCK_BYTES,
        (gateway.most_waiting_tokens - usual.most_waiting_tokens) * _TOKEN_BYTES,
    )
    return _MEMORY_MIB + sum(max(0, size) for size in more) // _MIB


def _client_file(path: str) -> str:
    return f"{_CLIENT_KEYS}/{key_name(path)}"


def _key_variables(gateway: GatewayConfig, deployment: Deployment) -> Iterator[Object]:
    sources = [("client-keys", keys.env) for keys in gateway.tenant_keys.values()]
    sources += [("engine-keys", engine.api_key_env) for engine in deployment.engines]
    for secret, name in dict.fromkeys(sources):
        if name is not None:
            yield {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": name}}}


def _refuse(gateway: GatewayConfig) -> None:
    """Raise ConfigError for what pods cannot have, or what nobody could reach."""
    if gateway.operator_keys or any(keys.written for keys in gateway.tenant_keys.values()):
        raise ConfigError(
            "keys stand in the deployment file, and manifests are read by many: write "
            "api_keys_file or api_keys_env, and put the keys into a Secret"
        )
    if gateway.tls is None and not gateway.plaintext:
        raise ConfigError(
            "gateways listen on their pods' addresses; write tls: {cert, key} at the gateway, or "
            "plaintext: true where an Ingress or the network itself protects what clients say"
        )
    if gateway.workers > 1:
        raise ConfigError(
            f"gateway {gateway.name!r}: workers: {gateway.workers}: a pod is one process, and the "
            "autoscaler makes more of them; leave workers out"
        )
