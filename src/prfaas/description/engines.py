"""The engines of a description one by one, whether they run or are only planned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

from prfaas.core.deployment import ClusterConfig, ClusterKind, EngineConfig, EngineRole
from prfaas.core.errors import ConfigError
from prfaas.core.planned import InstancesConfig, Tokens
from prfaas.core.units import parse_tokens


class PlannedEngines(NamedTuple):
    """``instances`` equal engines of a cluster; ``name`` is an engine's own, None for instances.
    ``role`` None: not decided. ``max_num_seqs`` and ``kv_tokens`` None: as the profile says."""

    name: str | None
    cluster: str
    role: EngineRole | None
    instances: int
    profile: str
    max_num_seqs: int | None
    kv_tokens: int | None


def engines_of(clusters: tuple[ClusterConfig, ...]) -> list[PlannedEngines]:
    """All engines in the file's order.

    Raises ConfigError that says what to write where an engine has no profile.
    """
    return [engines for cluster in clusters for engines in _of(cluster)]


def engine_names(cluster: ClusterConfig) -> list[tuple[str, EngineConfig | InstancesConfig]]:
    """Its engines one by one, with what the file says of each, those that decode last; instances
    are numbered."""
    found: list[tuple[str, EngineConfig | InstancesConfig]] = [(e.name, e) for e in cluster.engines]
    pools = [pool for pool in cluster.pools for _ in range(pool.count)]
    found += [(f"{cluster.name}-{number}", pool) for number, pool in enumerate(pools)]
    return sorted(found, key=lambda named: named[1].role == "decode")


def _of(cluster: ClusterConfig) -> Iterator[PlannedEngines]:
    for pool in cluster.pools:
        yield PlannedEngines(
            None,
            cluster.name,
            "prefill" if cluster.kind == "prfaas" else pool.role,
            pool.count,
            pool.profile or cluster.profile or _without_profile(cluster.name, pool),
            pool.max_num_seqs,
            _tokens(pool.kv_tokens),
        )
    for engine in cluster.engines:
        yield PlannedEngines(
            engine.name,
            cluster.name,
            engine.role,
            1,
            engine.profile or cluster.profile or _without_profile(cluster.name, engine),
            engine.max_num_seqs,
            _tokens(engine.kv_tokens),
        )


def with_profiles(
    clusters: tuple[ClusterConfig, ...], profiles: Mapping[str, str]
) -> tuple[ClusterConfig, ...]:
    """The clusters with these profiles: of an engine, of a cluster, or under ``""`` of all that
    are not named. They win over what the file says. Raises ConfigError for an unknown name."""
    names = {name for c in clusters for name in (c.name, *(e.name for e in c.engines))}
    unknown = sorted(profiles.keys() - names - {""})
    if unknown:
        known = ", ".join(sorted(names))
        raise ConfigError(f"--profile: no cluster or engine {unknown[0]!r}; known: {known}")
    return tuple(_with_profiles(cluster, profiles) for cluster in clusters)


def _with_profiles(cluster: ClusterConfig, profiles: Mapping[str, str]) -> ClusterConfig:
    replace = msgspec.structs.replace
    told = profiles.get(cluster.name, profiles.get(""))
    machines = tuple(
        replace(
            machine,
            engines=tuple(
                replace(engine, profile=profiles.get(engine.name, told) or engine.profile)
                for engine in machine.engines
            ),
        )
        for machine in cluster.machines
    )
    pools = tuple(replace(pool, profile=told or pool.profile) for pool in cluster.pools)
    return replace(cluster, machines=machines, instances=pools or None)


def _tokens(text: Tokens | None) -> int | None:
    return None if text is None else parse_tokens(text)


def _without_profile(cluster: str, what: InstancesConfig | EngineConfig) -> str:
    name = f"engine {what.name!r}" if isinstance(what, EngineConfig) else "its instances"
    raise ConfigError(
        f"cluster {cluster!r}: how fast {name} would be is not known; measure with 'prfaas "
        f"profile', then write profile: FILE here or pass --profile {cluster}=FILE"
    )


def check_pools(kind: ClusterKind, pools: tuple[InstancesConfig, ...]) -> None:
    """Raises ConfigError for roles that the cluster's kind does not have, or that are half said."""
    if not pools:
        return
    roles = [pool.role for pool in pools]
    if kind == "prfaas" and "decode" in roles:
        raise ConfigError("a PrfaaS cluster only prefills; leave its instances that decode out")
    if kind == "pd" and None in roles and len(pools) > 1:
        raise ConfigError("instances: say the role of each, or write one count for all")
    if kind == "pd" and None not in roles and "decode" not in roles:
        raise ConfigError("a PD cluster needs instances with role: decode")
