"""Where prefixes are cached in a scenario: machines and engines by cluster, in any number."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from pathlib import Path

import msgspec

from prfaas.core.deployment import ClusterConfig
from prfaas.core.units import parse_duration, parse_rate, parse_tokens
from prfaas.description.caches import lan_rates, machines_of
from prfaas.description.engines import engine_names
from prfaas.description.file import Description
from prfaas.models.kv_size import KvSize
from prfaas.models.profiles import PrefillProfile, load_profile
from prfaas.workload.machine_cache import MachineModel
from prfaas.workload.pools import Pools, pool_rates
from prfaas.workload.trace import RecordedTrace


class CachingCluster(msgspec.Struct, frozen=True):
    """A cluster's engines by name, those first that prefill, each with the tokens of its own cache
    (infinite: not known, not walked); its machines (none: nothing is cached)."""

    name: str
    engines: dict[str, float]
    machines: tuple[MachineModel, ...]
    lan_bytes_per_s: float = 0.0

    def of(self, instances: int) -> CachingCluster:
        """With so many engines: the last ones are left out, or there are more like the last one,
        on machines like its own."""
        engines, machines = dict(list(self.engines.items())[:instances]), list(self.machines)
        last = list(self.engines)[-1]
        like = next((m for m in machines if last in m.engines), None)
        for number in range(len(engines), instances):
            name = f"{last}+{number}"
            engines[name] = self.engines[last]
            if like is not None:
                machines.append(msgspec.structs.replace(like, name=name, engines=(name,)))
        machines = [
            msgspec.structs.replace(m, engines=tuple(e for e in m.engines if e in engines))
            for m in machines
        ]
        there = tuple(machine for machine in machines if machine.engines)
        return msgspec.structs.replace(self, engines=engines, machines=there)

    def sized(self, memory: float, disk: float) -> CachingCluster:
        """With so many times the memory and the disk in every machine."""
        machines = tuple(
            msgspec.structs.replace(
                m, cache_bytes=m.cache_bytes * memory, disk_bytes=m.disk_bytes * disk
            )
            for m in self.machines
        )
        return msgspec.structs.replace(self, machines=machines)


class PoolSite(msgspec.Struct, frozen=True, kw_only=True):
    """A trace, and where its prefixes may be cached."""

    trace: RecordedTrace
    pd: CachingCluster
    prfaas: CachingCluster | None
    line: tuple[float, float] | None
    """Bytes a second and the round trip in seconds, from the PrfaaS cluster."""
    kv: KvSize
    align_tokens: int
    """Hand-offs end at multiples of it."""

    def of(self, n_prfaas: int, n_pd: int) -> PoolSite:
        """With so many instances."""
        prfaas = self.prfaas.of(n_prfaas) if self.prfaas is not None and n_prfaas else None
        return msgspec.structs.replace(self, prfaas=prfaas, pd=self.pd.of(n_pd))

    def sized(self, memory: float, disk: float = 1.0) -> PoolSite:
        """With so many times the memory and disk; see `CachingCluster.sized`."""
        return msgspec.structs.replace(
            self,
            prfaas=None if self.prfaas is None else self.prfaas.sized(memory, disk),
            pd=self.pd.sized(memory, disk),
        )

    @property
    def machines(self) -> tuple[MachineModel, ...]:
        """All of them."""
        return (*(self.prfaas.machines if self.prfaas is not None else ()), *self.pd.machines)

    def pools(self, costs: WalkCosts) -> Pools:
        """Empty caches of all machines."""
        engines = dict(self.pd.engines)
        lines = {}
        if self.prfaas is not None:
            engines |= self.prfaas.engines
            if self.line is not None:
                lines[self.prfaas.name, self.pd.name] = self.line
        return Pools(
            self.machines,
            pool_rates(self.machines, {self.pd.name: self.pd.lan_bytes_per_s}, lines),
            costs,
            block_tokens=self.trace.block_tokens,
            state_bytes=self.kv.bytes(0),
            kv_tokens=engines,
        )


class WalkCosts:
    """What computing takes in each cluster, and moving; see `prfaas.workload.pools.Costs`."""

    def __init__(self, site: PoolSite, profiles: Mapping[str, PrefillProfile]) -> None:
        self._kv = site.kv
        self._profiles = dict.fromkeys(site.pd.engines, profiles[site.pd.name])
        if site.prfaas is not None:
            self._profiles |= dict.fromkeys(site.prfaas.engines, profiles[site.prfaas.name])

    def prefill_s(self, engine: str, uncached_tokens: int) -> float:
        """Seconds, as its cluster's profile says."""
        return self._profiles[engine].seconds(uncached_tokens)

    def kv_bytes(self, from_token: int, to_token: int) -> float:
        """Of tokens [from_token, to_token) and the state behind them."""
        size = self._kv.bytes
        return size(to_token) - size(from_token) + size(0)


def site_of(
    description: Description, trace: RecordedTrace, kv: KvSize, *, beside: Path
) -> PoolSite | None:
    """Where the description caches a trace's prefixes machine by machine; None where it does not,
    where the trace knows no prefixes, and where that is not walked: with more clusters than one of
    each kind, caches that are told in tokens beside those of machines, or none in the PD cluster
    (what the PrfaaS cluster holds would go there, whatever t says)."""
    if not trace.blocks or not is_walked(description):
        return None
    by_kind = {cluster.kind: cluster for cluster in description.clusters}
    prfaas = by_kind.get("prfaas")
    links = description.links
    return PoolSite(
        trace=trace,
        pd=_caching(description, by_kind["pd"], beside),
        prfaas=None if prfaas is None else _caching(description, prfaas, beside),
        line=(parse_rate(links[0].rate), parse_duration(str(links[0].rtt)))
        if links and links[0].rate is not None
        else None,
        kv=kv,
        align_tokens=description.model.block_tokens,
    )


def is_walked(description: Description) -> bool:
    """Whether a trace can be walked through its caches."""
    kinds = [cluster.kind for cluster in description.clusters]
    there = [c for c in description.clusters if c.prefix_cache != 0]
    return (
        kinds.count("pd") == 1
        and kinds.count("prfaas") <= 1
        and any(cluster.kind == "pd" for cluster in there)
        and all(cluster.has_agents for cluster in there)
    )


def _caching(description: Description, cluster: ClusterConfig, beside: Path) -> CachingCluster:
    engines = {}
    for name, told in engine_names(cluster):
        profile = load_profile(told.profile or cluster.profile or "", beside=beside)
        tokens = profile.kv_tokens if told.kv_tokens is None else parse_tokens(told.kv_tokens)
        engines[name] = inf if tokens is None else float(tokens)
    machines = machines_of(description, dict.fromkeys(engines, cluster.name))
    return CachingCluster(
        cluster.name,
        engines,
        tuple(machine for machine in machines if machine.cluster == cluster.name),
        lan_rates(description).get(cluster.name, 0.0),
    )
