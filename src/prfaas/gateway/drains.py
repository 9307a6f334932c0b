"""What an operator has taken out of service: engines by name, by their machine or their cluster."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from prfaas.core.errors import CallerError
from prfaas.gateway.endpoints import Endpoints
from prfaas.scheduler.events import EngineCordoned, EngineUncordoned


class Drain(msgspec.Struct, frozen=True):
    """One engine that takes no more. ``requests``: what this gateway still has on it or on its way
    to it; ``since`` in Unix seconds."""

    engine: str
    machine: str
    cluster: str
    reason: str
    since: float
    requests: int

    @property
    def empty(self) -> bool:
        """Whether it can be ended without hurting a request of this gateway."""
        return self.requests == 0


class Drains:
    """Cordons engines in the scheduler and says how far they are. For one event loop.

    Args:
        handle: the scheduler's events go there.
        requests_on: how many requests the scheduler has on an engine.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        handle: Callable[[EngineCordoned | EngineUncordoned], None],
        requests_on: Callable[[str], int],
    ) -> None:
        self._endpoints = endpoints
        self._handle = handle
        self._requests_on = requests_on
        self._since: dict[str, tuple[float, str]] = {}

    @property
    def engines(self) -> frozenset[str]:
        """All that take no more."""
        return frozenset(self._since)

    def begin(self, target: str, *, reason: str) -> list[Drain]:
        """Have an engine, or all of a machine or cluster, finish what they have and take no more;
        harmless where they do. Raises CallerError for a name that is neither."""
        names = self._named(target)
        for name in names:
            if name not in self._since:
                self._since[name] = time.time(), reason
                self._handle(EngineCordoned(name, reason))
        return [self._drain(name) for name in names]

    def end(self, target: str) -> list[str]:
        """Put them into service again; returns which were out of it. Raises as `begin`."""
        names = [name for name in self._named(target) if name in self._since]
        for name in names:
            del self._since[name]
            self._handle(EngineUncordoned(name))
        return names

    def forget(self, engine: str) -> None:
        """It has left the deployment."""
        self._since.pop(engine, None)

    def rows(self) -> list[Drain]:
        """All of them, the longest out of service first."""
        return [self._drain(name) for name in self._since]

    def _drain(self, name: str) -> Drain:
        since, reason = self._since[name]
        engine = self._endpoints.engines[name]
        return Drain(name, engine.machine, engine.cluster, reason, since, self._requests_on(name))

    def _named(self, target: str) -> list[str]:
        found = [
            engine.name
            for cluster in self._endpoints.clusters
            for engine in cluster.engines
            if target in (engine.name, engine.machine, engine.agent, cluster.name)
        ]
        if not found:
            known = [cluster.name for cluster in self._endpoints.clusters]
            known += [agent.machine for agent in self._endpoints.agents.values()]
            known += self._endpoints.engines
            known = list(dict.fromkeys(known))
            raise CallerError(
                f"no engine, machine or cluster {target!r}; known: {', '.join(known)}"
            )
        return found
