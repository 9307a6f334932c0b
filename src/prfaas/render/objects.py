"""What all Kubernetes objects here have in common."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]

NAME, COMPONENT, GROUP = (
    "app.kubernetes.io/name",
    "app.kubernetes.io/component",
    "app.kubernetes.io/instance",
)
MACHINE, GATEWAY = "machine", "gateway"


def labels(component: str, group: str) -> dict[str, str]:
    """Of the pods of one group of machines or gateways."""
    return {NAME: "prfaas", COMPONENT: component, GROUP: group}


def of_component(component: str) -> Object:
    """A selector of all machines, or all gateways."""
    return {"matchLabels": {NAME: "prfaas", COMPONENT: component}}


def thing(api: str, kind: str, name: str, **fields: Any) -> Object:
    """An object; ``fields`` beside its metadata. Kustomize puts the namespace in."""
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name}, **fields}


def container(name: str, image: str, command: list[str], **fields: Any) -> Object:
    """A container that can do nothing to the machine below it."""
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": command,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        **fields,
    }


POD_SECURITY: Object = {
    "runAsNonRoot": True,
    "runAsUser": 10001,
    "runAsGroup": 10001,
    "fsGroup": 10001,
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""The namespace admits nothing less (Pod Security Standards, *restricted*)."""


def disruptions(selector: Object) -> Object:
    """One pod at a time may be taken away; those that are not ready always, since a node on which
    an engine does not come up could else never be emptied."""
    return {
        "maxUnavailable": 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": selector,
    }


def from_field(name: str, path: str) -> Object:
    """An environment variable of what a pod knows of itself."""
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def http_probe(port: int, path: str, *, period_s: int, failures: int, tls: bool = False) -> Object:
    """Asks over HTTP; gives up after ``failures`` in a row."""
    get = {"path": path, "port": port, **({"scheme": "HTTPS"} if tls else {})}
    return {
        "httpGet": get,
        "periodSeconds": period_s,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def members(image: str, asked: list[str]) -> Object:
    """The sidecar that finds the pods there are and writes the deployment file; those after it
    start once there is one."""
    return container(
        "members",
        image,
        ["prfaas", "members", "/etc/prfaas/template/template.json", "--out", FILE, *asked],
        restartPolicy="Always",
        env=[from_field("POD_NAME", "metadata.name"), from_field("POD_IP", "status.podIP")],
        startupProbe={
            "exec": {"command": ["test", "-s", FILE]},
            "periodSeconds": 1,
            "failureThreshold": 60,
        },
        resources={
            "requests": {"cpu": "20m", "memory": "128Mi"},
            "limits": {"memory": "256Mi"},
        },
        volumeMounts=[
            {"name": "deployment", "mountPath": "/run/prfaas-deployment"},
            {"name": "template", "mountPath": "/etc/prfaas/template", "readOnly": True},
            {"name": "scratch", "mountPath": "/tmp"},
        ],
    )


FILE = "/run/prfaas-deployment/deployment.json"

COMMON_VOLUMES: list[Object] = [
    {"name": "deployment", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}},
    {"name": "template", "configMap": {"name": "deployment"}},
    {"name": "scratch", "emptyDir": {}},
]
