"""All clusters, engines and links of a deployment, with counts: what policies see as `View`."""

from __future__ import annotations

from collections.abc import Callable

from prfaas.core.errors import InvariantError
from prfaas.core.layout import KvLayout
from prfaas.policies.alike import AlikeFleet
from prfaas.policies.api import View
from prfaas.policies.columns import Bools, Columns
from prfaas.policies.serving_view import ServingView
from prfaas.policies.views import Costs, RequestView
from prfaas.scheduler.clock import Clock
from prfaas.scheduler.lifecycle import State
from prfaas.scheduler.pairing import Pairing
from prfaas.scheduler.state import ClusterState, EngineState, LinkState, Record
from prfaas.scheduler.topology import EngineSpec, Topology


class FleetState:
    """The `View`: clusters, engines and lines, with what is outstanding on them. ``on_layout``: see
    `Pairing`."""

    def __init__(
        self,
        topology: Topology,
        costs: Costs,
        *,
        on_layout: Callable[[KvLayout], None] | None = None,
    ) -> None:
        self.costs = costs
        self.clock = Clock()
        near = topology.near
        self.by_name = {
            spec.name: ClusterState(spec, far=near is not None and spec.name != near)
            for spec in topology.clusters
        }
        self.clusters = list(self.by_name.values())
        self.prfaas_clusters = [c for c in self.clusters if c.prfaas]
        self.pd_clusters = [c for c in self.clusters if not c.prfaas]
        self.engines: dict[str, EngineState] = {}
        self._columns: Columns | None = None
        self._alike: AlikeFleet | None = None
        self._changed: set[EngineState] = set()
        """Engines that have changed; of those, which the columns and the queues do not know."""
        self._for_columns: set[EngineState] = set()
        self._for_alike: set[EngineState] = set()
        for spec in topology.engines:
            self._place(spec)
        for cluster in self.clusters:
            cluster.sort_roles()
        self.threshold_of: Callable[[str], float | None] = lambda cluster: None
        """PD cluster -> the threshold in use there, where the policy has one: for dashboards."""
        self.draining: list[EngineState] = []
        """Decode engines that are to prefill once they have nothing left to answer."""
        self.cordoned: list[EngineState] = []
        """Engines that are to take no more work."""
        self.links = {(k.source, k.target): LinkState(k, self.clock) for k in topology.links}
        self.pairing = Pairing(topology.alignment_tokens, self.engines, self._joined(), on_layout)

    def reshaped(self) -> None:
        """Engines or lines have come or gone: who can hand over to whom is found out anew."""
        self._columns = self._alike = None
        self.pairing.reshaped(self._joined())

    def _joined(self) -> frozenset[tuple[str, str]]:
        return frozenset(self.links) | {(name, name) for name in self.by_name}

    def add_cluster(self, cluster: ClusterState) -> None:
        """One that is new; it has no engines yet."""
        self._columns = self._alike = None
        self.by_name[cluster.name] = cluster
        self.clusters.append(cluster)
        (self.prfaas_clusters if cluster.prfaas else self.pd_clusters).append(cluster)

    def add_engine(self, spec: EngineSpec) -> None:
        """One that is new, in a cluster that is known."""
        self._place(spec).sort_roles()

    def remove_engine(self, engine: EngineState) -> None:
        """One on which nothing is; its cluster goes with the last of its engines."""
        self._columns = self._alike = None
        del self.engines[engine.name]
        for engines in (self.draining, self.cordoned):
            if engine in engines:
                engines.remove(engine)
        place = engine.place
        place.engines.remove(engine)
        place.sort_roles()
        if not place.engines and not place.ready:
            del self.by_name[place.name]
            self.clusters.remove(place)
            (self.prfaas_clusters if place.prfaas else self.pd_clusters).remove(place)

    def _place(self, spec: EngineSpec) -> ClusterState:
        self._columns = self._alike = None
        place = self.by_name[spec.cluster]
        engine = EngineState(spec, place, self.clock, self._changed)
        self.engines[spec.name] = engine
        place.engines.append(engine)
        return place

    def cluster(self, name: str) -> ClusterState:
        """The cluster of that name."""
        return self.by_name[name]

    def stands_in(self, engine: EngineState, record: Record) -> bool:
        """Whether a prefill engine answers a whole request: a PD cluster's, while no decode engine
        that serves it is up anywhere."""
        return not engine.place.prfaas and not any(
            other.up and record.served_by(other)
            for cluster in self.pd_clusters
            for other in cluster.decode_engines
        )

    def seen_by(self, record: Record) -> View:
        """What a policy is shown for it: the engines that serve it."""
        return self if record.serves is None else ServingView(self, record.serves)

    @property
    def alike(self) -> AlikeFleet | None:
        """See `View`."""
        alike = self._alike
        if alike is None and any(self.costs.alike(name) is None for name in self.engines):
            return None
        if not self.pairing.whole:
            return None
        self._spread_news()
        if alike is None or not alike.fits():
            alike = self._alike = AlikeFleet(
                self.pd_clusters, self.prfaas_clusters, self.links, self.costs
            )
        else:
            alike.take(self._for_alike)
        self._for_alike.clear()
        return alike

    def _spread_news(self) -> None:
        if self._columns is not None:
            self._for_columns |= self._changed
        if self._alike is not None:
            self._for_alike |= self._changed
        self._changed.clear()

    @property
    def columns(self) -> Columns:
        """See `View`."""
        self._spread_news()
        columns = self._columns
        if columns is None or not columns.fits():
            columns = self._columns = Columns(
                self.engines, self.pd_clusters, self.prfaas_clusters, self.links, self.costs
            )
            self.pairing.renumbered()
        else:
            columns.take(self._for_columns)
        self._for_columns.clear()
        return columns

    def hands_over(self, request: RequestView, decode: str) -> bool:
        """See `View`."""
        cached = request.cached.get(decode, 0)
        return self.pairing.gives(request.total_tokens, cached, self.engines[decode])

    def givers(self, decode: str) -> Bools | None:
        """See `View`."""
        return self.pairing.givers(self.engines[decode])

    def link(self, source: str, target: str) -> LinkState | None:
        """The line between two clusters; None where there is none."""
        return self.links.get((source, target))

    def prefill_engines(self, cluster: str, decode: str) -> list[EngineState]:
        """See `View`."""
        return self.pairing.prefill_engines(self.by_name[cluster], self.engines[decode])

    def network(self, prefill: EngineState, decode: EngineState) -> LinkState | None:
        """What a hand-off between two engines crosses: the line between their clusters, or their
        cluster's own network; None where they share a machine, or where nothing is known to be
        between them."""
        if prefill.place is decode.place and prefill.machine == decode.machine:
            return None
        return self.links.get((prefill.cluster, decode.cluster))

    def crossing(self, source: str, target: str) -> dict[str, Record]:
        """Requests whose KV cache is to go from one machine to another."""
        return {
            request_id: record
            for link in self.links.values()
            for request_id, record in link.records.items()
            if record.decode is not None
            and record.decode.machine == target
            and (record.prefill or self.engines[record.transfer_from]).machine == source
        }

    def check_integrity(self) -> None:
        """Raise InvariantError where counters and memberships disagree or capacity is exceeded."""
        for engine in self.engines.values():
            records = engine.decode_records.values()
            holding = [r for r in records if r.state in (State.DECODING, State.STREAMING)]
            running = sum(r.sequences for r in holding)
            kv_used = sum(engine.kv_of(r) for r in holding)
            if kv_used != engine.kv_used or (len(holding) > 1 and kv_used > engine.kv_tokens):
                raise InvariantError(f"{engine.name}: {kv_used} tokens, counted {engine.kv_used}")
            too_many = len(holding) > 1 and running > engine.most_running
            if running != engine.running or too_many:
                raise InvariantError(f"{engine.name}: {running} decode, counted {engine.running}")
            if engine.up != (engine.answers and engine.cordon is None):
                raise InvariantError(f"{engine.name}: up is not what follows")
            if sum(r.sequences for r in records) != engine.assigned:
                raise InvariantError(f"{engine.name}: assigned {engine.assigned} is miscounted")
            active = len(engine.prefill_records) - len(engine.waiting)
            if active > engine.most_prefills:
                raise InvariantError(f"{engine.name}: {active} prefills exceed its capacity")
            if engine.prefills < len(engine.prefill_records) or engine.prefill_tokens < 0:
                raise InvariantError(f"{engine.name}: booked prefills are miscounted")
            if any(r.state is not State.WAITING for r in engine.waiting.records.values()):
                raise InvariantError(f"{engine.name}: a request waits that is past waiting")
        for cluster in self.clusters:
            if any(r.state is not State.READY for r in cluster.ready.records.values()):
                raise InvariantError(f"{cluster.name}: a request is in line that has its slot")
        for link in self.links.values():
            total = sum(r.link_bytes for r in link.records.values())
            if abs(total - link.outstanding_bytes) > 1e-6 * (1 + total):
                raise InvariantError(f"{link.source}->{link.target}: bytes are miscounted")
