"""Engines, agents and lines of a gateway come and go with its deployment file.

Theory of operation. All parts share one `Endpoints`, which says what the file says and beside it
what has left the file and is not drained yet. A new file is checked as a whole before anything
changes. Then the endpoints become what it says, clients are made for what is new, the scheduler is
told, and watchers start. What the scheduler reports as drained is forgotten everywhere.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from prfaas.core.deployment import Deployment
from prfaas.core.deployment.changes import changes, check_change
from prfaas.core.errors import ConfigError
from prfaas.gateway.agent_client import AgentClient
from prfaas.gateway.drains import Drains
from prfaas.gateway.endpoints import Endpoints, resolve
from prfaas.gateway.fleet import Fleet
from prfaas.gateway.links import LineStates
from prfaas.gateway.metrics import GatewayMetrics
from prfaas.gateway.prompts import Renderer
from prfaas.gateway.roster import Roster, Watch
from prfaas.policies.registry import make_policy
from prfaas.scheduler.events import TopologyChanged
from prfaas.scheduler.topology import topology_of

logger = logging.getLogger(__name__)


class Reshaping:
    """Keeps ``endpoints``, and all that follows from them. For one event loop.

    Args:
        tell: the scheduler's events go there.
        at_agent: what runs for each agent beside its poll.
        most_engines: so many there can be, with those that are leaving.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        *,
        roster: Roster,
        fleet: Fleet,
        drains: Drains,
        lines: LineStates,
        renderer: Renderer,
        metrics: GatewayMetrics,
        tell: Callable[[TopologyChanged], None],
        at_agent: Callable[[AgentClient], Sequence[Watch]],
        most_engines: int,
    ) -> None:
        self._endpoints = endpoints
        self._wanted = Endpoints(endpoints.clusters, endpoints.lines)
        self._roster = roster
        self._fleet = fleet
        self._drains = drains
        self._lines = lines
        self._renderer = renderer
        self._metrics = metrics
        self._tell = tell
        self._at_agent = at_agent
        self._most_engines = most_engines

    def become(self, old: Deployment, new: Deployment, *, source: str) -> None:
        """Go from one file to the next, as this gateway sees them. Raises ConfigError, having
        changed nothing, where that cannot be; ``source`` names the file."""
        wanted = resolve(new, source=source)
        check_change(old, new)
        make_policy(new.scheduler)
        self._check_room(wanted)
        for change in changes(old, new):
            logger.info("deployment: %s", change)
        self._wanted = wanted
        self._endpoints.become(wanted.keeping(self._endpoints, self._endpoints.engines.keys()))
        joined = self._endpoints.engines.keys() - self._roster.engines.keys()
        moved = self._roster.add_clients()
        for name in joined:
            self._fleet.add(name)
        self._tell(TopologyChanged(topology_of(new, alignment_tokens=None, up=False)))
        for name in moved:
            self._fleet.moved(name)
        self._reshaped()
        self._roster.watch(self._fleet, self._at_agent)

    def drained(self, engine: str) -> None:
        """Nothing of this gateway is left on it."""
        logger.info("%s is drained: nothing of this gateway is left on it", engine)
        if engine not in self._wanted.engines:
            # Whoever has moved the last request may be in the middle of its own work.
            asyncio.get_running_loop().call_soon(self._forget, engine)

    def _forget(self, engine: str) -> None:
        if engine in self._wanted.engines or engine not in self._endpoints.engines:
            return
        leaving = self._endpoints.engines.keys() - self._wanted.engines.keys() - {engine}
        self._endpoints.become(self._wanted.keeping(self._endpoints, leaving))
        self._roster.forget_engine(engine)
        self._fleet.forget(engine)
        self._drains.forget(engine)
        self._metrics.forget_engine(engine)
        self._reshaped()
        logger.info("engine %s has left the deployment", engine)

    def _reshaped(self) -> None:
        for agent in self._roster.forget_agents():
            self._fleet.forget_agent(agent)
        self._fleet.layouts.reshaped()
        self._lines.reshaped()
        self._renderer.reshaped(self._endpoints.engines)

    def _check_room(self, wanted: Endpoints) -> None:
        """Raise ConfigError for an engine that comes back as another before it has left, or for
        more engines than there is room for."""
        now = self._endpoints.engines
        for name in now.keys() & wanted.engines.keys():
            old, new = now[name], wanted.engines[name]
            if (old.cluster, old.machine, old.role) != (new.cluster, new.machine, new.role):
                raise ConfigError(
                    f"engine {name!r} is still finishing its requests as what it was: give the new "
                    "one another name"
                )
        both = len(now.keys() | wanted.engines.keys())
        if both > self._most_engines:
            raise ConfigError(
                f"{both} engines with those that are leaving, and this process has room for "
                f"{self._most_engines}: start the gateway anew with the new file"
            )
