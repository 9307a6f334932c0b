"""Clients and watchers of all engines and agents, which come and go with the deployment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from prfaas.gateway.agent_client import AgentClient
from prfaas.gateway.background import Background
from prfaas.gateway.endpoints import Endpoints
from prfaas.gateway.engine_client import EngineClient
from prfaas.gateway.feeds import Feed
from prfaas.gateway.fleet import Fleet
from prfaas.gateway.http_client import HttpClient

Watch = tuple[str, Callable[[], Coroutine[Any, Any, None]]]
"""The kind of a background task, and the task."""


class Roster:
    """``engines``, ``agents`` and ``feeds`` by name: the same dicts all the time, for all who use
    them. For one event loop.

    Args:
        make_feed: makes an engine's feed of KV events.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        http: HttpClient,
        agents_http: HttpClient,
        background: Background,
        make_feed: Callable[[str], Feed],
    ) -> None:
        self._endpoints = endpoints
        self._http, self._agents_http = http, agents_http
        self._background = background
        self._make_feed = make_feed
        self.engines: dict[str, EngineClient] = {}
        self.agents: dict[str, AgentClient] = {}
        self.feeds: dict[str, Feed] = {}
        self._watching: dict[str, list[asyncio.Task[None]]] = {}
        self._following: dict[str, asyncio.Task[None]] = {}

    def add_clients(self) -> list[str]:
        """Make those that are missing, and have others speak to where theirs are now. Returns the
        engines that have moved."""
        moved = []
        for name, engine in self._endpoints.engines.items():
            client = self.engines.get(name)
            if client is None:
                self.engines[name] = EngineClient(name, engine.url, self._http)
                self.feeds[name] = self._make_feed(name)
            elif client.url != engine.url:
                client.url = engine.url
                moved.append(name)
        for name, agent in self._endpoints.agents.items():
            if name in self.agents:
                self.agents[name].url = agent.url
            else:
                self.agents[name] = AgentClient(name, agent.url, self._agents_http)
        return moved

    def watch(self, fleet: Fleet, at_agent: Callable[[AgentClient], Sequence[Watch]]) -> None:
        """Begin to watch those that are not watched yet; ``at_agent``: what else runs for each
        agent."""
        for name in self.engines.keys() - self._watching.keys():
            self._start(name, ("engine_health", partial(fleet.watch_engine, name)))
        for name in self.agents.keys() - self._watching.keys():
            poll = ("agent_poll", partial(fleet.watch_agent, name))
            self._start(name, poll, *at_agent(self.agents[name]))

    def follow(self, engine: str) -> None:
        """Follow its KV events; harmless where they are followed."""
        if engine not in self._following:
            run = self.feeds[engine].run
            self._following[engine] = self._background.run("kv_events", run)

    def unfollow(self, engine: str) -> None:
        """It is dead: so is its cache."""
        task = self._following.pop(engine, None)
        if task is not None:
            task.cancel()

    def follow_anew(self) -> None:
        """Begin anew with all engines that are followed: what is known of them is void."""
        for name, before in list(self._following.items()):
            before.cancel()
            run = partial(_behind, before, self.feeds[name].run)
            self._following[name] = self._background.run("kv_events", run)

    def forget_engine(self, name: str) -> None:
        """It has left, and nobody needs it any more."""
        self._stop(name)
        self.engines.pop(name).close()
        leave = self.feeds.pop(name).follower.leave
        task = self._following.pop(name, None)
        if task is None:
            leave()
        else:  # The task's last act is on the index too.
            task.add_done_callback(lambda _: leave())
            task.cancel()

    def forget_agents(self) -> list[str]:
        """Those that are no endpoints any more; returns their names."""
        gone = list(self.agents.keys() - self._endpoints.agents.keys())
        for name in gone:
            self._stop(name)
            self._agents_http.forget(self.agents.pop(name).url)
        return gone

    def _start(self, name: str, *watches: Watch) -> None:
        self._watching[name] = [self._background.run(kind, work) for kind, work in watches]

    def _stop(self, name: str) -> None:
        for task in self._watching.pop(name, []):
            task.cancel()


async def _behind(before: asyncio.Task[None], run: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """When the task of before has ended: both would be on the index."""
    await asyncio.wait([before])
    await run()
