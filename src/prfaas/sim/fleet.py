"""The engines of one run, by name: the description's own, or another split of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from prfaas.core.deployment import EngineRole
from prfaas.core.errors import ConfigError
from prfaas.description.engines import PlannedEngines
from prfaas.description.experiments import RunConfig, Split
from prfaas.description.file import Description
from prfaas.models.profiles import InstanceProfile, load_profile
from prfaas.planner.compare import best_split
from prfaas.planner.scenario import scenario_of

_ROLES: tuple[EngineRole, EngineRole] = ("prefill", "decode")


class SimEngine(NamedTuple):
    """An engine of a run. ``max_batch``, ``kv_tokens``: what it was given, or its profile says: of
    one that is only planned the largest batch whose steps meet the SLO, as in the planner.
    ``kv_tokens`` None: no bound."""

    name: str
    cluster: str
    role: EngineRole
    profile: InstanceProfile
    max_batch: int
    kv_tokens: int | None


def fleet_of(description: Description, run: RunConfig, *, beside: Path) -> list[SimEngine]:
    """The engines of a run, cluster by cluster, those that prefill first.

    Where neither file nor run say how many instances of a PD cluster prefill, the planner does.
    Raises ConfigError for what cannot be.
    """
    pools = description.planned_engines
    profiles = {p.profile: load_profile(p.profile, beside=beside) for p in pools}
    splits: Mapping[str, Split] = run.instances
    if any(p.role is None and p.cluster not in splits for p in pools):
        splits = {**_planned(description, beside), **splits}
    found: list[SimEngine] = []
    step_s = description.slo.tpot_s
    for cluster in description.clusters:
        own = [pool for pool in pools if pool.cluster == cluster.name]
        split = splits.get(cluster.name)
        named = any(pool.name is not None for pool in own)
        resized = _reassigned(own, split) if named else _resized(cluster.name, own, split)
        found += [_engine(name, role, pool, profiles, step_s) for name, role, pool in resized]
    return found


def _planned(description: Description, beside: Path) -> dict[str, Split]:
    scenario = scenario_of(description, source="the split", beside=beside)
    return {
        name: Split(prefill=prefill, decode=decode)
        for name, (prefill, decode) in best_split(scenario).items()
    }


_Named = tuple[str, EngineRole, PlannedEngines]


def _resized(cluster: str, pools: list[PlannedEngines], split: Split | None) -> list[_Named]:
    """Instances have no names: those of a role are numbered."""
    found: list[_Named] = []
    for role in _ROLES:
        like = [pool for pool in pools if pool.role in (role, None)]
        counts = [pool.instances for pool in like]
        if split is not None:
            count = split.prefill if role == "prefill" else split.decode
            if count and not like:
                raise ConfigError(f"cluster {cluster!r} has no {role} instances to resize")
            # One pool takes the change; more of a role than one are equal in all but the profile.
            counts = [count] + [0] * (len(like) - 1) if like else []
        engines = [pool for pool, count in zip(like, counts, strict=True) for _ in range(count)]
        found += [(f"{cluster}-{role}-{i}", role, pool) for i, pool in enumerate(engines)]
    return found


def _reassigned(engines: list[PlannedEngines], split: Split | None) -> list[_Named]:
    """Engines with names keep them: as many as needed change their role, the last ones first; those
    beyond the split are left out, those beyond the engines are copies of the last."""
    now: dict[EngineRole, list[PlannedEngines]] = {
        role: [engine for engine in engines if engine.role == role] for role in _ROLES
    }
    if split is not None:
        wanted = {"prefill": split.prefill, "decode": split.decode}
        spare = [e for role in _ROLES for e in now[role][wanted[role] :]]
        for role in _ROLES:
            now[role] = now[role][: wanted[role]]
            while len(now[role]) < wanted[role]:
                copy = engines[-1]._replace(name=f"{engines[-1].name}-{len(now[role])}")
                now[role].append(spare.pop() if spare else copy)
    return [(engine.name or "", role, engine) for role in _ROLES for engine in now[role]]


def _engine(
    name: str,
    role: EngineRole,
    pool: PlannedEngines,
    profiles: Mapping[str, InstanceProfile],
    step_s: float,
) -> SimEngine:
    profile = profiles[pool.profile]
    largest = 1 if profile.decode is None else profile.decode.max_batch
    batch = largest if pool.max_num_seqs is None else pool.max_num_seqs
    if pool.name is None and pool.max_num_seqs is None and profile.decode is not None:
        batch = profile.decode.batch_within(step_s) or largest
    if pool.name is not None:  # It may be given more than was measured; a step beyond is unknown.
        batch = min(batch, largest) if profile.decode is not None else batch
    return SimEngine(name, pool.cluster, role, profile, batch, pool.kv_tokens or profile.kv_tokens)
