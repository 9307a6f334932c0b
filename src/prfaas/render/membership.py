"""Pods that come and go, as machines of a deployment: the file is written anew, and everyone reads
it again.

A `Template` says what a pod's machine looks like; `Presence` says which pods there are; `expand`
makes the deployment of both. Names are resolved by a driver (`prfaas.launch.members`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from prfaas.core.addresses import Address
from prfaas.core.deployment import Deployment, parse_deployment
from prfaas.core.deployment.lines import MOST_CONNECTIONS
from prfaas.core.errors import ConfigError
from prfaas.core.strict import Strict
from prfaas.render.groups import POD

ADDRESS = "{address}"
"""Where a gateway's address stands in its template."""
_EVERYWHERE_IPV6 = "[::]"
_AHEAD = 4
"""Pods are numbered from 0 on; so many numbers beyond the highest seen are looked for."""


class PodGroup(Strict, frozen=True, kw_only=True):
    """Pods of a StatefulSet: ``NAME-0.DOMAIN`` and so on. ``machine`` as in a deployment file."""

    name: str
    cluster: str
    domain: str
    replicas: int
    machine: dict[str, Any]


class GatewayGroup(Strict, frozen=True, kw_only=True):
    """Gateways behind a headless Service, found by its name."""

    service: str
    gateway: dict[str, Any]


class Template(Strict, frozen=True, kw_only=True):
    """A deployment file whose machines and gateways are to be found. ``clusters`` have none."""

    groups: tuple[PodGroup, ...]
    gateways: tuple[GatewayGroup, ...]
    clusters: tuple[dict[str, Any], ...]
    rest: dict[str, Any] = msgspec.field(default_factory=dict)


class Presence:
    """Which pods there are, by when they were last found.

    Args:
        leave_after_s: a pod that is not found is a member for so long: one that is started anew
            keeps what gateways know of it.
        own: the pod that asks, always a member.
        before: what was known by an older template, of which it is the next.
    """

    def __init__(
        self,
        template: Template,
        *,
        leave_after_s: float,
        own: str | None = None,
        before: Presence | None = None,
    ) -> None:
        self._template, self._leave_after_s, self._own = template, leave_after_s, own
        self._seen: dict[tuple[str, int], float] = {}
        if before is not None:
            groups = {group.name for group in template.groups}
            self._seen = {pod: at for pod, at in before._seen.items() if pod[0] in groups}

    def wanted(self) -> list[tuple[str, int, str]]:
        """What to resolve next: group, number, host name."""
        return [
            (group.name, number, f"{group.name}-{number}.{group.domain}")
            for group in self._template.groups
            for number in range(self._highest(group) + 1 + _AHEAD)
        ]

    def look(self, found: Mapping[tuple[str, int], bool | None], *, now: float) -> None:
        """``found``: whether a pod's name has an address; None: nobody could say, it stays as it
        was."""
        for pod, there in found.items():
            if there or (there is None and pod in self._seen):
                self._seen[pod] = now
        for pod, at in list(self._seen.items()):
            if now - at >= self._leave_after_s:
                del self._seen[pod]

    def members(self) -> dict[str, list[int]]:
        """Of each group its pods' numbers. A group of which none was found has its first: a cluster
        without a machine is none."""
        found: dict[str, list[int]] = {}
        for group in self._template.groups:
            numbers = {n for name, n in self._seen if name == group.name}
            prefix, _, number = (self._own or "").rpartition("-")
            if prefix == group.name and number.isdecimal():
                numbers.add(int(number))
            found[group.name] = sorted(numbers or {0})
        return found

    def _highest(self, group: PodGroup) -> int:
        numbers = [n for name, n in self._seen if name == group.name]
        return max(group.replicas - 1, *numbers) if numbers else group.replicas - 1


def expand(
    template: Template,
    members: Mapping[str, Iterable[int]],
    gateways: Mapping[str, Iterable[str]],
    *,
    own: str | None = None,
    on_ipv6: bool = False,
) -> Deployment:
    """The deployment of what there is.

    Args:
        members: numbers of pods by group.
        gateways: addresses (IP) by service.
        own: the address of the gateway that reads it, which stands first and listens everywhere.
        on_ipv6: whether the pod that reads it has an IPv6 address first of all; agents listen so.

    Raises ConfigError.
    """
    machines: dict[str, list[Any]] = {cluster["name"]: [] for cluster in template.clusters}
    for pods in template.groups:
        machines[pods.cluster] += [
            _machine(pods, number, on_ipv6=on_ipv6) for number in members[pods.name]
        ]
    ends = {name: sum(bool(m.get("engines")) for m in found) for name, found in machines.items()}
    clusters = []
    for cluster in template.clusters:
        name = cluster["name"]
        entry = cluster | {"machines": machines[name]}
        if "lan" in cluster:
            entry["lan"] = _with_connections(cluster["lan"], ends[name] * (ends[name] - 1))
        clusters.append(entry)
    links = [
        _with_connections(link, ends.get(link["from"], 0) * ends.get(link["to"], 0))
        for link in template.rest.get("links", ())
    ]
    entries: list[dict[str, Any]] = []
    for group in template.gateways:
        addresses = sorted(gateways.get(group.service, ()), key=lambda a: (a != own, a))
        entries += [_gateway(group, address, own=own) for address in addresses]
    entries.sort(key=lambda entry: own is None or entry["name"] != _name_of(own))
    if not entries:
        entries = [_gateway(group, "127.0.0.1", own=None) for group in template.gateways[:1]]
    whole = {**template.rest, "links": links, "clusters": clusters, "gateways": entries}
    return parse_deployment(msgspec.json.encode(whole), source="the template with its members")


def _machine(group: PodGroup, number: int, *, on_ipv6: bool) -> Any:
    text = msgspec.json.encode(group.machine).replace(
        POD.encode(), f"{group.name}-{number}".encode()
    )
    machine = msgspec.json.decode(text)
    if on_ipv6:
        for key in ("listen", "admin"):
            port = machine["agent"][key].rpartition(":")[2]
            machine["agent"][key] = f"{_EVERYWHERE_IPV6}:{port}"
    return machine


def _with_connections(line: dict[str, Any], pairs: int) -> dict[str, Any]:
    """A number of connections is of all pairs of pods together, which come and go: each has one at
    least, and none more than it may."""
    if line.get("connections") is None:
        return line
    most = MOST_CONNECTIONS * max(1, pairs)
    return line | {"connections": max(pairs, 1, min(line["connections"], most))}


def _gateway(group: GatewayGroup, address: str, *, own: str | None) -> dict[str, Any]:
    host = str(Address(address, 0)).rpartition(":")[0]
    text = msgspec.json.encode(group.gateway).replace(ADDRESS.encode(), host.encode())
    entry: dict[str, Any] = msgspec.json.decode(text)
    entry["name"] = _name_of(address)
    if address == own:
        everywhere = _EVERYWHERE_IPV6 if ":" in own else "0.0.0.0"
        for key in ("listen", "admin"):
            entry[key] = f"{everywhere}:{entry[key].rpartition(':')[2]}"
    return entry


def _name_of(address: str) -> str:
    return f"gateway-{address.replace('.', '-').replace(':', '-')}".rstrip("-")


def parse_template(text: bytes, *, source: str) -> Template:
    """Raises ConfigError."""
    try:
        return msgspec.json.decode(text, type=Template)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{source}: no template of 'prfaas render': {error}") from error
