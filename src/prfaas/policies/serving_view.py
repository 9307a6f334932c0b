"""The fleet as a request sees it that only some engines serve: as if there were no others.

A LoRA adapter may be loaded on some engines of a deployment and not on others, and its KV cache is
its own: neither prefill nor decode may be elsewhere. Policies need not know: they are shown these
engines alone. Requests that every engine serves, nearly all, are decided on the fleet itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prfaas.policies.api import View
from prfaas.policies.columns import Bools, Columns
from prfaas.policies.views import ClusterView, Costs, EngineView, LinkView, RequestView


class ServingCluster:
    """A `ClusterView` with those of its engines alone that are in ``serves``."""

    def __init__(self, cluster: ClusterView, serves: frozenset[str]) -> None:
        self.name, self.prfaas, self.far = cluster.name, cluster.prfaas, cluster.far
        self.engines = _those(cluster.engines, serves)
        self.prefill_engines = _those(cluster.prefill_engines, serves)
        self.decode_engines = _those(cluster.decode_engines, serves)
        self.waiting_for_decode, self.completed = cluster.waiting_for_decode, cluster.completed


class ServingView:
    """A `View` as ``fleet`` is at this moment, of the engines in ``serves``. It is made for one
    decision: what changes afterwards it does not show."""

    def __init__(self, fleet: View, serves: frozenset[str]) -> None:
        self._fleet, self._serves = fleet, serves
        self._columns: Columns | None = None
        self._by_name = {c.name: ServingCluster(c, serves) for c in fleet.clusters}
        self.clusters = list(self._by_name.values())
        self.prfaas_clusters = [self._by_name[c.name] for c in fleet.prfaas_clusters]
        self.pd_clusters = [self._by_name[c.name] for c in fleet.pd_clusters]
        self.engines: Mapping[str, EngineView] = {
            name: engine for name, engine in fleet.engines.items() if name in serves
        }
        self.costs: Costs = fleet.costs
        self.alike = None
        """Queues are kept of all engines together."""

    @property
    def columns(self) -> Columns:
        """See `View`: numbered as the fleet's."""
        if self._columns is None:
            self._columns = self._fleet.columns.only(self._serves)
        return self._columns

    def hands_over(self, request: RequestView, decode: str) -> bool:
        """See `View`."""
        return self._fleet.hands_over(request, decode)

    def givers(self, decode: str) -> Bools | None:
        """See `View`."""
        return self._fleet.givers(decode)

    def cluster(self, name: str) -> ServingCluster:
        """See `View`."""
        return self._by_name[name]

    def link(self, source: str, target: str) -> LinkView | None:
        """See `View`."""
        return self._fleet.link(source, target)

    def prefill_engines(self, cluster: str, decode: str) -> Sequence[EngineView]:
        """See `View`."""
        return _those(self._fleet.prefill_engines(cluster, decode), self._serves)


def _those(engines: Sequence[EngineView], serves: frozenset[str]) -> list[EngineView]:
    return [engine for engine in engines if engine.name in serves]
