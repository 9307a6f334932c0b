"""What differs between two deployments, in words that a person reads.

Things are told apart by their names. Keys and environment variables are never shown, only that they
differ: a difference goes into logs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Literal

import msgspec

from prfaas.core.deployment.gateways import GatewayConfig
from prfaas.core.deployment.model import Deployment
from prfaas.core.errors import ConfigError

Kind = Literal["joins", "leaves", "changes"]
Effect = Literal["now", "restart"]

_NOW: dict[str, frozenset[str]] = {
    "engine": frozenset(
        {
            "url",
            "api_key_file",
            "api_key_env",
            "ca",
            "kv_events",
            "kv_events_replay",
            "max_num_seqs",
        }
    ),
    "gateway": frozenset(
        {
            "api_keys",
            "api_keys_file",
            "api_keys_env",
            "tenants",
            "cors_origins",
            "isolate_caches",
            "operator_keys",
            "operator_keys_file",
            "operator_keys_env",
            "request_deadline",
            "keepalive",
            "max_inflight_requests",
            "max_bodies",
            "max_waiting_tokens",
            "max_wait",
            "drain",
        }
    ),
    "link": frozenset({"rate"}),
}
"""What running gateways take over; all else is read when the process starts that it concerns."""
_SECRET = frozenset({"api_keys", "operator_keys", "tenants", "env"})
_PARTS = frozenset({"name", "machines", "engines", "agent", "source", "target"})
"""Fields that are told of by themselves."""


class Change(msgspec.Struct, frozen=True):
    """``what`` is the kind of a thing and its name. ``effect``: whether gateways take it over when
    they read the file again, or the process that it concerns must be started anew."""

    kind: Kind
    what: str
    detail: str
    effect: Effect

    def __str__(self) -> str:
        """One line."""
        if self.kind == "changes":
            later = "" if self.effect == "now" else " (when it is started anew)"
            return f"{self.what}: {self.detail}{later}"
        return f"{self.what} {self.kind}{self.detail and f' {self.detail}'}"


def check_change(old: Deployment, new: Deployment) -> None:
    """Raise ConfigError where a name is no longer what it was: what runs under it would be taken
    for something else; else as `check_doors`."""
    kinds = {cluster.name: cluster.kind for cluster in old.clusters}
    for cluster in new.clusters:
        if kinds.get(cluster.name, cluster.kind) != cluster.kind:
            raise ConfigError(
                f"cluster {cluster.name!r} cannot turn from {kinds[cluster.name]} into "
                f"{cluster.kind} while it runs: give it another name"
            )
    were = dict(_engines(old))
    for name, now in _engines(new):
        before = were.get(name, now)
        if before != now:
            raise ConfigError(
                f"engine {name!r} cannot change from {before} to {now} while it runs: give it "
                "another name"
            )
    check_doors(old, new)


def check_doors(old: Deployment, new: Deployment) -> None:
    """Raise ConfigError where a gateway would ask for keys no more: half of a file, as of a copy
    that broke off, would let everybody in."""
    doors = {gateway.name: gateway for gateway in old.gateways}
    for gateway in new.gateways:
        _check_door(doors.get(gateway.name, gateway), gateway)


def _check_door(old: GatewayConfig, new: GatewayConfig) -> None:
    check_asked(asked_for_keys(old), new)


def asked_for_keys(gateway: GatewayConfig) -> frozenset[str]:
    """Of ``clients`` and ``operators`` those who need a key."""
    keys = {"clients": any(gateway.tenant_keys.values()), "operators": bool(gateway.operators)}
    return frozenset(who for who, needed in keys.items() if needed)


def check_asked(asked: Collection[str], gateway: GatewayConfig) -> None:
    """Raise ConfigError where some who were ``asked`` for keys would be no more."""
    for whose in sorted(frozenset(asked) - asked_for_keys(gateway)):
        raise ConfigError(
            f"gateway {gateway.name!r} has no keys of {whose} any more, and would ask nobody for "
            "one: is the file whole? if that is meant, start the gateways anew with it"
        )


def changes(old: Deployment, new: Deployment) -> list[Change]:
    """All of them; empty where both say the same."""
    found = [
        *_compared("cluster", _clusters(old), _clusters(new)),
        *_compared("machine", _machines(old), _machines(new)),
    ]
    for what in ("agent", "engine"):
        found += _compared(what, _of_machines(old, what), _of_machines(new, what))
    found += _compared("link", _links(old), _links(new))
    found += _compared("gateway", _gateways(old), _gateways(new))
    found += _fields("scheduler", "scheduler", old.scheduler, new.scheduler)
    found += _fields("model", "model", old.model, new.model)
    return found


_Named = Mapping[str, tuple[msgspec.Struct, str]]
"""Name -> the thing, and where it is."""


def _compared(kind: str, old: _Named, new: _Named) -> Iterator[Change]:
    for name in old.keys() - new.keys():
        yield Change("leaves", f"{kind} {name}", "", "now")
    for name, (thing, where) in new.items():
        if name not in old:
            yield Change("joins", f"{kind} {name}", where, "now")
            continue
        before, was = old[name]
        if was != where:
            yield Change("changes", f"{kind} {name}", f"{was} -> {where}", "restart")
        yield from _fields(kind, f"{kind} {name}", before, thing)


def _fields(kind: str, what: str, old: msgspec.Struct, new: msgspec.Struct) -> Iterator[Change]:
    for field in new.__struct_fields__:
        before, now = getattr(old, field, None), getattr(new, field)
        if field in _PARTS or before == now:
            continue
        effect: Effect = "now" if field in _NOW.get(kind, ()) else "restart"
        yield Change("changes", what, f"{field} {_shown(field, before, now)}", effect)


def _shown(field: str, before: object, now: object) -> str:
    if field in _SECRET:
        return "differ" if field.endswith("s") else "differs"
    return f"{_text(before)} -> {_text(now)}"


def _text(value: object) -> str:
    if value is None:
        return "unset"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _engines(deployment: Deployment) -> Iterator[tuple[str, str]]:
    for cluster in deployment.clusters:
        for machine in cluster.machines:
            for engine in machine.engines:
                yield engine.name, f"{engine.role} on machine {machine.name} of {cluster.name}"


def _clusters(deployment: Deployment) -> _Named:
    return {c.name: (c, f"({c.kind})") for c in deployment.clusters}


def _machines(deployment: Deployment) -> _Named:
    # That of a cluster with only one is the cluster.
    return {
        m.name: (m, f"cluster {c.name}")
        for c in deployment.clusters
        for m in c.machines
        if m.name != c.name
    }


def _of_machines(deployment: Deployment, what: str) -> _Named:
    found: dict[str, tuple[msgspec.Struct, str]] = {}
    for cluster in deployment.clusters:
        for machine in cluster.machines:
            where = "" if machine.name == cluster.name else f", machine {machine.name}"
            if what == "agent":
                found[machine.agent.name] = machine.agent, f"cluster {cluster.name}{where}"
            else:
                for engine in machine.engines:
                    place = f"cluster {cluster.name}{where} ({engine.role})"
                    found[engine.name] = engine, place
    return found


def _links(deployment: Deployment) -> _Named:
    return {f"{link.source} to {link.target}": (link, "") for link in deployment.links}


def _gateways(deployment: Deployment) -> _Named:
    return {gateway.name: (gateway, "") for gateway in deployment.gateways}
