"""Where each cluster of a deployment runs: its namespace, its names, its addresses."""

from __future__ import annotations

import ipaddress
import re

import msgspec

from prfaas.core.deployment import Deployment
from prfaas.core.errors import ConfigError

_ZONE = re.compile(
    r"(?=.{1,180}\Z)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z]([a-z0-9-]{0,61}[a-z0-9])?\Z"
)
"""As much as leaves room for a pod's name and its Service's before it. The last part begins with a
letter: addresses are no zones."""


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """One cluster of the deployment in its Kubernetes cluster.

    ``zone`` None: all sites are namespaces of one Kubernetes cluster. Else pods are found as
    ``POD.SERVICE.zone`` from everywhere, which ExternalDNS writes, and have addresses of ``cidrs``.
    """

    name: str
    namespace: str
    zone: str | None = None
    cidrs: tuple[str, ...] = ()

    def domain(self, service: str) -> str:
        """What stands behind a pod's name, for pods of a headless Service. Its last dot, which
        would keep the resolver from trying search domains, is left to who resolves."""
        return f"{service}.{self.zone or f'{self.namespace}.svc.cluster.local'}"


def sites_of(
    deployment: Deployment, *, namespace: str, given: dict[str, tuple[str, tuple[str, ...]]]
) -> dict[str, Site]:
    """A site for each cluster; ``given``: zone and addresses of those in a Kubernetes cluster of
    their own. Raises ConfigError."""
    names = [cluster.name for cluster in deployment.clusters]
    for name in given:
        if name not in names:
            raise ConfigError(f"--site {name}: no such cluster; known: {', '.join(names)}")
    if given and len(given) < len(names):
        lacking = ", ".join(name for name in names if name not in given)
        raise ConfigError(f"--site is lacking for {lacking}: say it of every cluster or of none")
    found = {}
    for name in names:
        zone, cidrs = given.get(name, (None, ()))
        found[name] = Site(name=name, namespace=f"{namespace}-{name}", zone=zone, cidrs=cidrs)
    return found


def parse_site(text: str) -> tuple[str, tuple[str, tuple[str, ...]]]:
    """``west=kv.west.example.com,10.2.0.0/16`` to its parts. Raises ConfigError."""
    name, _, rest = text.partition("=")
    zone, *cidrs = rest.split(",")
    try:
        networks = tuple(str(ipaddress.ip_network(cidr)) for cidr in cidrs)
    except ValueError as error:
        raise ConfigError(f"--site {text}: {error}") from error
    if not name or not zone or not networks:
        raise ConfigError(f"--site {text!r}: write CLUSTER=ZONE,CIDR[,CIDR ...]")
    zone = zone.removesuffix(".")
    if not _ZONE.match(zone):
        raise ConfigError(f"--site {text!r}: zone {zone!r} is no DNS name")
    return name, (zone, networks)
