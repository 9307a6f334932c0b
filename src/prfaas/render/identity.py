"""Certificates of pods: cert-manager's CSI driver makes one for each pod when it starts, and renews
it while it runs. The private key never leaves the pod's node."""

from __future__ import annotations

from prfaas.core.deployment import AgentConfig, Deployment, TlsConfig
from prfaas.core.errors import ConfigError
from prfaas.render.objects import POD_SECURITY, Object, thing

ISSUER, AUTHORITY, CACHE_KEY, MONITOR = "prfaas", "prfaas-ca", "cache-key", "monitor"
"""The Issuer, the Secret of its authority, that of the cache key, the certificate of Prometheus."""
GATEWAYS = "prfaas-gateway"
"""What gateways' certificates call them, whatever pod it is."""
_DIRECTORY, _CACHE = "/etc/prfaas/tls", "/etc/prfaas/cache"
_API = "cert-manager.io/v1"

FILES = TlsConfig(
    ca=f"{_DIRECTORY}/ca.crt",
    cert=f"{_DIRECTORY}/tls.crt",
    key=f"{_DIRECTORY}/tls.key",
    cache_key=f"{_CACHE}/cache.key",
)
"""What the driver writes, and where the cache key is mounted."""


def is_secured(deployment: Deployment) -> bool:
    """Whether agents speak TLS. Raises ConfigError where only some do."""
    open_ones = {agent.name for agent in deployment.agents if agent.plaintext}
    if open_ones and len(open_ones) < len(deployment.agents):
        names = ", ".join(sorted(open_ones))
        raise ConfigError(
            f"agents {names} say plaintext: true and others do not: as pods all of them have "
            "certificates, or none"
        )
    return not open_ones


def volumes(name: str) -> list[Object]:
    """Of a pod whose certificate is to have this name."""
    group = str(POD_SECURITY["fsGroup"])
    attributes = {
        "issuer-name": ISSUER,
        "dns-names": name,
        "key-usages": "digital signature,server auth,client auth",
        "duration": "168h",
        "fs-group": group,
    }
    return [
        {
            "name": "tls",
            "csi": {
                "driver": "csi.cert-manager.io",
                "readOnly": True,
                "volumeAttributes": {f"csi.cert-manager.io/{k}": v for k, v in attributes.items()},
            },
        },
        {"name": "cache-key", "secret": {"secretName": CACHE_KEY, "defaultMode": 0o440}},
    ]


def mounts() -> list[Object]:
    """Of the container that shows it."""
    return [
        {"name": "tls", "mountPath": _DIRECTORY, "readOnly": True},
        {"name": "cache-key", "mountPath": _CACHE, "readOnly": True},
    ]


def authority_mount() -> Object:
    """Of a container that asks gateways and shows nothing: the authority alone, no key."""
    return {"name": "tls", "mountPath": FILES.ca, "subPath": "ca.crt", "readOnly": True}


def site_objects() -> list[Object]:
    """Of one Kubernetes cluster: whoever signs, and what Prometheus shows to agents."""
    signed = {"name": ISSUER, "kind": "Issuer"}
    return [
        thing(_API, "Issuer", ISSUER, spec={"ca": {"secretName": AUTHORITY}}),
        thing(_API, "Certificate", MONITOR, spec={
            "secretName": f"{MONITOR}-tls", "dnsNames": [MONITOR], "issuerRef": signed,
            "usages": ["digital signature", "client auth"],
            "privateKey": {"algorithm": "ECDSA", "rotationPolicy": "Always"},
        }),
    ]  # fmt: skip


def asked_as_monitor(name: str | None = None) -> Object:
    """How Prometheus asks agents and gateways: with a certificate of its own. Pods are asked by
    their addresses, which no certificate has; ``name``: what all of them have instead."""

    def secret(key: str) -> Object:
        return {"name": f"{MONITOR}-tls", "key": key}

    tls = {
        "ca": {"secret": secret("ca.crt")},
        "cert": {"secret": secret("tls.crt")},
        "keySecret": secret("tls.key"),
        **({"insecureSkipVerify": True} if name is None else {"serverName": name}),
    }
    return {"scheme": "https", "tlsConfig": tls}


def commands(create: str) -> list[str]:
    """What makes the Secrets, of what ``prfaas certs`` has made."""
    return [
        f"{create} tls {AUTHORITY} --cert=certs/ca.pem --key=certs/ca-key.pem",
        f"{create} generic {CACHE_KEY} --from-file=cache.key=certs/cache.key",
    ]


def files_of(agent: AgentConfig) -> TlsConfig | None:
    """What the agent shows, where it has TLS."""
    return None if agent.plaintext else FILES
