"""Clusters, engines and lines join and leave while everything runs.

Theory of operation. `TopologyChanged` says what there is from now on. What is new is added, an
engine as one that does not answer yet. An engine that is no longer there is drained like a cordoned
one and forgotten when nothing is left on it; named again before that, it stays. A line that is no
longer there is lost at once: its requests take another route. What an engine *is* (its cluster,
machine and role) never changes under one name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prfaas.core.errors import CallerError
from prfaas.scheduler.decoding import Decoding
from prfaas.scheduler.events import EngineCordoned, EngineUncordoned, TopologyChanged
from prfaas.scheduler.fleet import FleetState
from prfaas.scheduler.lifecycle import Trigger
from prfaas.scheduler.membership import Membership
from prfaas.scheduler.requests import Requests
from prfaas.scheduler.state import ClusterState, EngineState, LinkState
from prfaas.scheduler.topology import EngineSpec, LinkSpec

_LEFT = "it left the deployment"


class Reshaping:
    """``on_engines``: told which engines there are, with the clusters they are of."""

    def __init__(
        self,
        requests: Requests,
        fleet: FleetState,
        *,
        membership: Membership,
        decoding: Decoding,
        on_engines: Callable[[Mapping[str, str]], None] | None,
    ) -> None:
        self._requests = requests
        self._fleet = fleet
        self._membership = membership
        self._decoding = decoding
        self._on_engines = on_engines
        self._leaving: dict[str, EngineState] = {}

    def changed(self, event: TopologyChanged) -> None:
        """Become what ``event`` says. Raises CallerError, and changes nothing, where it says that
        an engine is another one under its name."""
        topology = event.topology
        for spec in topology.engines:
            self._check_same(spec)
        for cluster in topology.clusters:
            if cluster.name not in self._fleet.by_name:
                far = topology.near is not None and topology.near != cluster.name
                self._fleet.add_cluster(ClusterState(cluster, far=far))
        there = topology.cluster_of
        if self._on_engines is not None:
            # Those that leave may still prefill.
            self._on_engines({**{n: e.cluster for n, e in self._fleet.engines.items()}, **there})
        for spec in topology.engines:
            self._join(spec)
        for name, engine in self._fleet.engines.items():
            if name not in there and name not in self._leaving:
                self._leaving[name] = engine
        for name in list(self._leaving):
            self._membership.cordoned(EngineCordoned(name, _LEFT))
        self._become_links(topology.links)

    def settle(self) -> None:
        """Forget engines that have left and have nothing left to do. After they were reported."""
        gone = [engine for engine in self._leaving.values() if engine.idle]
        for engine in gone:
            del self._leaving[engine.name]
            self._fleet.remove_engine(engine)
        if gone:
            self._fleet.reshaped()

    def _check_same(self, spec: EngineSpec) -> None:
        engine = self._fleet.engines.get(spec.name)
        if engine is None:
            return
        known = (engine.cluster, engine.machine, engine.configured_role)
        if known != (spec.cluster, spec.machine, spec.role):
            raise CallerError(
                f"engine {spec.name!r} cannot change its cluster, machine or role: give it another "
                "name"
            )

    def _join(self, spec: EngineSpec) -> None:
        engine = self._fleet.engines.get(spec.name)
        if engine is None:
            self._fleet.add_engine(spec)
            return
        if self._leaving.pop(spec.name, None) is not None and engine.cordon == _LEFT:
            self._membership.uncordoned(EngineUncordoned(spec.name))
        grows = spec.max_requests > engine.max_requests
        engine.set_capacity(spec)
        if grows and engine.answers:
            self._decoding.fill_slots(engine)

    def _become_links(self, specs: tuple[LinkSpec, ...]) -> None:
        links = self._fleet.links
        wanted = {(spec.source, spec.target): spec for spec in specs}
        for key, spec in wanted.items():
            if key in links:
                links[key].configure(spec)
            else:
                links[key] = LinkState(spec, self._fleet.clock)
        gone = [links.pop(key) for key in links.keys() - wanted.keys()]
        self._fleet.reshaped()
        for link in gone:
            link.up = False
            why = f"link {link.source} to {link.target} left the deployment"
            self._requests.trigger_each(link.records, Trigger.LINK_LOST, why)
