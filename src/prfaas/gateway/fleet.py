"""Which engines can be used, as their health checks and their agents say.

An engine counts as up while its health check answers and, for a prefill engine, while it is
registered with its machine's agent in a layout that fits some decode engine's (`layouts`). Layouts
are compared whenever an engine registers, never at the first request.

An engine that is well and refuses what the gateway shows of itself (401, 403) is up no more until
it takes that: it is free at all times, and what is tried again would come to it.

An engine that stops being up is *suspected*: it gets no new work, and what it has goes on. A health
check says little about answers under way: a server that shuts down closes its listener first and
its streams last. It is *down* once there is evidence of its death: its health check has failed for
`_DEATH_S` and nothing was heard of it on any answer in that time, or its processes were replaced.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sized
from functools import partial

from prfaas.core.errors import LinkError
from prfaas.gateway.agent_client import AgentClient, AgentGone
from prfaas.gateway.endpoints import Endpoints, EngineEndpoint
from prfaas.gateway.engine_client import EngineClient
from prfaas.gateway.health_probe import Sickness
from prfaas.gateway.layouts import Layouts
from prfaas.gateway.registered_ranks import MemoryCounts, RegisteredRank
from prfaas.gateway.upstream_errors import LocalFault

logger = logging.getLogger(__name__)

_ENGINE_POLL_S, _CHECKS_PER_S = 0.5, 250
_AGENT_POLL_S, _POLLS_PER_S = 1.0, 30
"""Each is asked so often, but of a large fleet all together no more than so many a second: a
process that dies is seen at once by its connection, and by the requests that it fails."""
_LONGEST_POLL_S = 4.0
"""vLLM's server closes connections that were idle for 5 s."""
_FAILURES_BEFORE_DOWN = 3
"""A busy machine answers late. An engine that refuses the connection is suspected at once, and an
agent that does so gets no hand-offs."""
_DEATH_S = 3.0
"""How long an engine must look and sound dead. Streams that break say so themselves; this is for
those that nobody reads, and machines that vanish."""


class Fleet:
    """Polls engines and agents and tells changes.

    Args:
        on_up, on_suspected: called with an engine's name (and why) when it starts or stops being
            usable for new work; ``on_up`` also when it starts or stops to take hand-offs.
        on_memory: told an agent's memory for hand-offs whenever it has changed.
        on_down: called when it is dead (and why), suspected or not.
        layouts: is told what registers.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        engines: Mapping[str, EngineClient],
        agents: Mapping[str, AgentClient],
        *,
        on_up: Callable[[str], None],
        on_suspected: Callable[[str, str], None],
        on_down: Callable[[str, str], None],
        layouts: Layouts,
        on_memory: Callable[[str, MemoryCounts], None] = lambda agent, memory: None,
    ) -> None:
        self._endpoints = endpoints
        self._engines = engines
        self._agents = agents
        self._on_memory = on_memory
        self._memories: dict[str, MemoryCounts] = {}
        self._on_up, self._on_suspected, self._on_down = on_up, on_suspected, on_down
        self._health = {name: _Health() for name in engines}
        self.layouts = layouts
        self._up: set[str] = set()
        self._receiving: set[str] = set()
        """Up, and registered with its agent as a whole."""
        self._alike: set[str] = set()
        """Of them, those whose cluster is uniform."""
        self._alive: set[str] = set()
        """Up, or suspected and not dead."""
        self._wake = {name: _Wake() for name in engines}
        for name, engine in engines.items():
            engine.on_lost = partial(self.suspect, name)
        self._agent_troubles: dict[str, str] = {}

    @property
    def up(self) -> frozenset[str]:
        """Engines that get new work."""
        return frozenset(self._up)

    def troubles(self) -> list[str]:
        """Why no request can be answered; empty if one can."""
        if self._up & self._endpoints.answering:
            return []
        decode = [e for e in self._endpoints.engines.values() if e.role == "decode"]
        return [self._said_of(e, self._health[e.name].why) for e in decode]

    def warnings(self) -> list[str]:
        """What keeps the deployment from being whole: requests are answered all the same."""
        found = [str(mismatch) for mismatch in self.layouts.mismatches()]
        down = ((e, self._down(e)) for e in self._endpoints.engines.values())
        found += [self._said_of(e, why) for e, why in down if why is not None]
        if not self.layouts.any_decodes():
            found.append("no decode engine has registered its KV layout with its agent yet")
        return found + list(self._agent_troubles.values())

    def takes_handoffs(self, engine: str) -> bool:
        """Whether its agent can receive for it."""
        return engine in self._receiving

    def is_alike(self, engine: str) -> bool:
        """Whether it may do the work of both roles: hand-offs from and to all its cluster fit."""
        return engine in self._alike

    def suspect(self, engine: str) -> None:
        """A request could not reach this engine, or was refused by it: look at once."""
        if (wake := self._wake.get(engine)) is not None:
            self._settle(self._endpoints.engines[engine])
            wake.set()

    def add(self, engine: str) -> None:
        """It has joined the deployment; to be watched from now on."""
        self._health[engine] = _Health()
        self._wake[engine] = _Wake()
        self._engines[engine].on_lost = partial(self.suspect, engine)

    def forget(self, engine: str) -> None:
        """It has left the deployment, and is watched no more."""
        del self._health[engine], self._wake[engine]
        for engines in (self._up, self._receiving, self._alike, self._alive):
            engines.discard(engine)

    def moved(self, engine: str) -> None:
        """Another process stands for its name."""
        if engine in self._alive:
            self._dies(engine, "its address has changed")
        self._health[engine] = _Health()
        self._wake[engine].set()

    def forget_agent(self, agent: str) -> None:
        """It has left the deployment, and is watched no more."""
        self._agent_troubles.pop(agent, None)
        self._memories.pop(agent, None)

    async def watch_engine(self, name: str) -> None:
        """Poll one engine's health, for ever."""
        wake = self._wake[name]
        while True:
            try:
                sickness = await self._engines[name].sickness()
            except LocalFault as error:
                logger.warning("%s", error)
            else:
                self._examined(name, sickness)
            if await wake.within(self._pause_s(_ENGINE_POLL_S, _CHECKS_PER_S, self._wake)):
                await asyncio.sleep(0.05)  # A burst of suspicions is one.

    def _examined(self, name: str, sickness: Sickness | None) -> None:
        now = asyncio.get_running_loop().time()
        health = self._health[name]
        if sickness is None and health.refused and name in self._alive:
            self._dies(name, "it was restarted")  # Nobody listened, and now somebody does.
        health.take(sickness, now)
        self._settle(self._endpoints.engines[name])
        failing_for_s = 0.0 if health.since is None else now - health.since
        silent_for_s = now - self._engines[name].heard_at
        suspected = health.why is not None and name in self._alive
        if suspected and min(failing_for_s, silent_for_s) >= _DEATH_S:
            self._dies(name, f"{health.why}, and it says nothing")

    async def watch_agent(self, name: str) -> None:
        """Poll the registered engines of one agent, for ever."""
        agent = self._agents[name]
        failures = 0
        while True:
            try:
                self._registered(name, await agent.engines())
                if agent.memory is not None and agent.memory != self._memories.get(name):
                    self._memories[name] = agent.memory
                    self._on_memory(name, agent.memory)
                self._agent_troubles.pop(name, None)
                failures = 0
            except LocalFault as error:
                logger.warning("%s", error)
            except LinkError as error:
                failures += _FAILURES_BEFORE_DOWN if isinstance(error, AgentGone) else 1
                if name not in self._agent_troubles:
                    logger.warning("%s", error)
                self._agent_troubles[name] = str(error)
                if failures >= _FAILURES_BEFORE_DOWN:
                    self._registered(name, [])
            await asyncio.sleep(self._pause_s(_AGENT_POLL_S, _POLLS_PER_S, self._agents))

    def _registered(self, agent: str, ranks: list[RegisteredRank]) -> None:
        changed = self.layouts.registered(agent, ranks)
        if changed is None:
            return
        for name in changed & self._alive:
            self._dies(name, "it was restarted")
        for engine in self._endpoints.engines.values():
            self._settle(engine)

    def _settle(self, engine: EngineEndpoint) -> None:
        """Tell if it became usable or suspected since the last time."""
        name, why = engine.name, self._unusable(engine)
        receives = why is None and self.layouts.is_whole(name)
        alike = receives and self.layouts.is_uniform(engine.cluster)
        before = (name in self._up, name in self._receiving, name in self._alike)
        if why is None and before != (True, receives, alike):
            if name not in self._up:
                logger.info("engine %s is up", name)
            self._up.add(name)
            self._alive.add(name)
            (self._receiving.add if receives else self._receiving.discard)(name)
            (self._alike.add if alike else self._alike.discard)(name)
            self._on_up(name)
        elif why is not None and name in self._up:
            self._up.discard(name)
            logger.warning("engine %s gets no new work: %s", name, why)
            self._on_suspected(name, why)

    @staticmethod
    def _pause_s(shortest_s: float, per_s: float, all_of_them: Sized) -> float:
        """Between two questions to one of these, so that they are not asked all at once."""
        spread = random.uniform(0.9, 1.1)
        return spread * min(_LONGEST_POLL_S, max(shortest_s, len(all_of_them) / per_s))

    def _dies(self, name: str, why: str) -> None:
        self._alive.discard(name)
        self._up.discard(name)
        logger.warning("engine %s is down: %s", name, why)
        self._on_down(name, why)

    def _unusable(self, engine: EngineEndpoint) -> str | None:
        why = self._down(engine)
        if why is not None or engine.role == "decode" or not self.layouts.is_whole(engine.name):
            return why
        return self.layouts.why_unpaired(engine)

    def _said_of(self, engine: EngineEndpoint, why: str | None) -> str:
        locked = self._engines[engine.name].locked
        return locked or f"{engine.role} engine {engine.name} is down: {why}"

    def _down(self, engine: EngineEndpoint) -> str | None:
        why = self._health[engine.name].why
        registers = engine.role == "prefill" and engine.name not in self._endpoints.answering
        if why is None and registers and not self.layouts.is_whole(engine.name):
            return "not registered with its agent"
        return why or self._engines[engine.name].locked


class _Wake:
    """Ends a pause early, as an event with a timeout does, at a third of the cost: there are
    hundreds a second."""

    def __init__(self) -> None:
        self._pause: asyncio.Future[bool] | None = None

    def set(self) -> None:
        """Nothing where there is no pause."""
        if self._pause is not None and not self._pause.done():
            self._pause.set_result(True)

    async def within(self, seconds: float) -> bool:
        """Pause for so long; whether it was ended early."""
        loop = asyncio.get_running_loop()
        pause: asyncio.Future[bool] = loop.create_future()
        self._pause = pause
        alarm = loop.call_later(seconds, _over, pause)
        try:
            return await pause
        finally:
            alarm.cancel()
            self._pause = None


def _over(pause: asyncio.Future[bool]) -> None:
    if not pause.done():
        pause.set_result(False)


class _Health:
    """What an engine's health checks have said. ``why`` it is suspected, None where it is not;
    ``since`` when they fail."""

    def __init__(self) -> None:
        self.why: str | None = "not seen yet"
        self.since: float | None = None
        self.refused = False
        self._late = 0

    def take(self, sickness: Sickness | None, now: float) -> None:
        """One more has ended; a busy machine may be late a few times."""
        if sickness is None:
            self.why, self.since, self.refused, self._late = None, None, False, 0
            return
        self.since = now if self.since is None else self.since
        self.refused = self.refused or sickness.refused
        self._late = self._late + 1 if sickness.late else 0
        if not sickness.late or self._late >= _FAILURES_BEFORE_DOWN:
            self.why = sickness.why
