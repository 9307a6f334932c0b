"""The gateway put together: clients of engines and agents, watchers, indices, scheduler."""

from __future__ import annotations

import asyncio
import os
import time
from functools import partial
from pathlib import Path

import zmq.asyncio

from prfaas.core.addresses import endpoint_at, parse_url
from prfaas.core.deployment import Deployment
from prfaas.core.layout import KvLayout
from prfaas.gateway.adapters import Adapters
from prfaas.gateway.agent_client import AgentClient
from prfaas.gateway.background import Background
from prfaas.gateway.driver import Driver
from prfaas.gateway.endpoints import Endpoints, EngineEndpoint
from prfaas.gateway.engine_client import EngineClient
from prfaas.gateway.fleet import Fleet
from prfaas.gateway.http_client import AGENT_KEEPALIVE_S, HttpClient
from prfaas.gateway.journal_file import JournalFile
from prfaas.gateway.kv_events import KvEventFeed
from prfaas.gateway.layouts import Layouts
from prfaas.gateway.links import LineStates, watch_links
from prfaas.gateway.metrics import GatewayMetrics
from prfaas.gateway.prompts import Renderer
from prfaas.gateway.requests import RequestFlow
from prfaas.index.prefix_index import PrefixIndex
from prfaas.policies.registry import make_policy
from prfaas.scheduler.events import (
    EngineDown,
    EngineSuspected,
    EngineUp,
    LayoutKnown,
    LinkStateChanged,
    MachinesCut,
    MachinesJoined,
    PairingChanged,
)
from prfaas.scheduler.journal import CostInputs, JournalOpened
from prfaas.scheduler.replay import scheduler_from
from prfaas.scheduler.topology import topology_of

_SEED_BYTES = 16
_TIDY_S = 0.25
"""How often the prefix index is looked after: it makes room ahead of what a second may bring."""


class Gateway:
    """Owns every part and every background task; `start` and `close` bracket its life on one event
    loop. ``requests`` answers clients."""

    def __init__(
        self, deployment: Deployment, endpoints: Endpoints, *, journal_file: Path | None = None
    ) -> None:
        """Raises ConfigError for an unknown policy or a journal that cannot be written."""
        self.deployment = deployment
        self.metrics = GatewayMetrics()
        self._endpoints = endpoints
        make_policy(deployment.scheduler)  # What cannot be made is better known now.
        self._journal = JournalFile(journal_file)
        self._background = Background(lambda kind: self.metrics.deaths.labels(kind).inc())
        self._feed_tasks: dict[str, asyncio.Task[None]] = {}
        self._adapters = Adapters(self.engines_up)

    async def start(self) -> None:
        """Begin to watch engines and agents."""
        self._http, self._agents_http = HttpClient(), HttpClient(AGENT_KEEPALIVE_S)
        self._feeds_turn = asyncio.Lock()
        self._zmq = zmq.asyncio.Context()
        engines_at_most = 2 * len(self._endpoints.engines) + 1000
        self._zmq.set(zmq.MAX_SOCKETS, engines_at_most)
        engines, endpoints = self._endpoints.engines, self._endpoints
        self.engines = {n: EngineClient(n, e.url, self._http) for n, e in engines.items()}
        self._agents = {
            name: AgentClient(name, agent.url, self._agents_http)
            for name, agent in endpoints.agents.items()
        }
        self.index = PrefixIndex(
            max_blocks=self.deployment.gateway.max_index_blocks,
            max_engines=len(engines),
            seed=os.urandom(_SEED_BYTES),
        )
        self._feeds = {name: self._make_feed(engine) for name, engine in engines.items()}
        self.fleet = Fleet(
            endpoints,
            self.engines,
            self._agents,
            on_up=self._engine_up,
            on_suspected=self._engine_suspected,
            on_down=self._engine_down,
            layouts=Layouts(
                endpoints, on_known=self._layout_known, on_pairing=self._pairing_changed
            ),
        )
        self._driver = self._make_driver()
        self.requests = self._make_requests()
        for name in engines:
            self._background.run("engine_health", partial(self.fleet.watch_engine, name))
        lines = LineStates(endpoints, on_change=self._link_changed, on_pair=self._machines_changed)
        for name, agent in self._agents.items():
            self._background.run("agent_poll", partial(self.fleet.watch_agent, name))
            self._background.run("link_states", partial(watch_links, agent, lines))
        self._background.run("index", self._keep_index_tidy)

    async def close(self) -> None:
        """Stop everything; requests under way must have ended."""
        await self._background.close()
        await self._driver.close()
        for engine in self.engines.values():
            engine.close()
        await self._http.close()
        await self._agents_http.close()
        self._zmq.destroy(linger=0)
        self._journal.close()

    def troubles(self) -> list[str]:
        """Why `/ready` does not say yes; empty if it does."""
        return self.fleet.troubles()

    def warnings(self) -> list[str]:
        """What is not as it should be though requests are answered."""
        return self.fleet.warnings()

    def feed(self, engine: str) -> KvEventFeed:
        """What is known of one engine's prefix cache."""
        return self._feeds[engine]

    def engines_up(self) -> list[EngineClient]:
        """Engines to ask what any of them can answer: near ones first, then those that decode."""
        near = self.deployment.gateway.near
        up = [e for e in self._endpoints.engines.values() if e.name in self.fleet.up]
        return [self.engines[e.name] for e in sorted(up, key=lambda e: (e.cluster != near, e.role))]

    def update_metrics(self) -> None:
        """Bring gauges up to date, before metrics are read."""
        for feed in self._feeds.values():
            self.metrics.observe_feed(feed)
        self.metrics.distinct_blocks.set(self.index.blocks)
        for name in self.engines:
            self.metrics.engine_up.labels(name).set(name in self.fleet.up)
        self.metrics.observe_mismatches(self.fleet.layouts.mismatches())
        self.metrics.ready.set(not self.troubles())

    # -- the parts ------------------------------------------------------------------------------

    def _make_requests(self) -> RequestFlow:
        fleet, engines = self.fleet, self._endpoints.engines
        return RequestFlow(
            self.deployment.gateway,
            self._driver,
            renderer=Renderer(
                engines,
                self.engines,
                up=lambda: fleet.up,
                suspect=fleet.suspect,
                near=self.deployment.gateway.near,
            ),
            adapters=self._adapters,
            engines=engines,
            index=self.index,
            metrics=self.metrics,
            journal=self._journal,
            alignment_tokens=fleet.layouts.alignment_tokens,
        )

    def _make_feed(self, engine: EngineEndpoint) -> KvEventFeed:
        index = self.index.engine(engine.name)
        return KvEventFeed(
            engine.name,
            index,
            partial(self._source, engine),
            self._zmq,
            feeds=len(self._endpoints.engines),
            turn=self._feeds_turn,
        )

    async def _source(self, engine: EngineEndpoint) -> tuple[str, str | None]:
        client = self.engines[engine.name]
        events, replay = engine.kv_events, engine.kv_events_replay
        if events is None:
            events, replay = await client.kv_event_source()
        host = parse_url(engine.url).host
        return endpoint_at(events, host), replay and endpoint_at(replay, host)

    async def _keep_index_tidy(self) -> None:
        while True:
            pause_s = 0.0 if self.index.tidy() else _TIDY_S
            await asyncio.sleep(pause_s)

    def _make_driver(self) -> Driver:
        config = self.deployment.scheduler
        opened = JournalOpened(
            driver="gateway",
            unix_time=time.time(),
            topology=topology_of(self.deployment, alignment_tokens=None, up=False),
            scheduler=config,
            costs=CostInputs(),
        )
        self._journal.write(time.monotonic(), opened)
        return Driver(
            scheduler_from(opened),
            self._endpoints,
            self.engines,
            self._agents,
            ranks=self.fleet.layouts.ranks,
            suspect=self.fleet.suspect,
            poll_s=min(2.0, config.transfer_stall_s / 4),
            journal=self._journal,
        )

    # -- what the watchers tell -----------------------------------------------------------------

    def _link_changed(self, event: LinkStateChanged) -> None:
        self.metrics.link_up.labels(event.source, event.target).set(event.up)
        self._driver.handle(event)

    def _machines_changed(self, source: str, target: str, up: bool) -> None:
        self._driver.handle((MachinesJoined if up else MachinesCut)(source, target))

    def _layout_known(self, layout: KvLayout, engines: tuple[str, ...]) -> None:
        self._driver.handle(LayoutKnown(layout, engines))

    def _pairing_changed(self, unfit: tuple[tuple[str, str], ...]) -> None:
        self._driver.handle(PairingChanged(unfit))

    def _engine_up(self, name: str) -> None:
        if name not in self._feed_tasks:
            self._feed_tasks[name] = self._background.run("kv_events", self._feeds[name].run)
        self._background.run("adapters", partial(self._adapters.learn, self.engines[name]))
        takes_handoffs = self.fleet.takes_handoffs(name)
        self._driver.handle(EngineUp(name, takes_handoffs))

    def _engine_suspected(self, name: str, why: str) -> None:
        self._driver.handle(EngineSuspected(name, why))

    def _engine_down(self, name: str, why: str) -> None:
        self._feed_tasks.pop(name).cancel()
        self._driver.handle(EngineDown(name, why))
