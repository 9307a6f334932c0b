"""The gateway put together: clients of engines and agents, watchers, indices, scheduler."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from prfaas.core.deployment import Deployment
from prfaas.gateway.access import Access, read_access
from prfaas.gateway.agent_client import AgentClient
from prfaas.gateway.background import Background
from prfaas.gateway.cached_elsewhere import CachedElsewhere
from prfaas.gateway.drains import Drains
from prfaas.gateway.driver import Driver
from prfaas.gateway.endpoints import Endpoints
from prfaas.gateway.engine_client import EngineClient
from prfaas.gateway.feeds import Feed, Feeds, cache_key, seed_of
from prfaas.gateway.fleet import Fleet
from prfaas.gateway.http_client import AGENT_KEEPALIVE_S, HttpClient
from prfaas.gateway.index_care import keep_tidy
from prfaas.gateway.journal_file import JournalFile
from prfaas.gateway.kv_memory import learn_kv_memory
from prfaas.gateway.layouts import Layouts
from prfaas.gateway.learned_file import LearnedFile
from prfaas.gateway.links import LineStates, watch_links
from prfaas.gateway.load_costs import LoadCosts
from prfaas.gateway.metrics import GatewayMetrics
from prfaas.gateway.news import News
from prfaas.gateway.pools import Pools, watch_cache
from prfaas.gateway.prompts import Renderer
from prfaas.gateway.requests import RequestFlow
from prfaas.gateway.reshaping import Reshaping
from prfaas.gateway.roster import Roster, Watch
from prfaas.gateway.scheduler_metrics import SchedulerCollector
from prfaas.gateway.served_models import ServedModels
from prfaas.gateway.sessions import GatewaySession, outstanding_at
from prfaas.gateway.threshold_watch import ThresholdWatch
from prfaas.index.keyed_prefixes import PLAINTEXT_KEY
from prfaas.index.prefix_index import PrefixIndex
from prfaas.policies.registry import make_policy
from prfaas.scheduler.events import EngineDown, EngineSuspected, EngineUp, KvMemoryKnown
from prfaas.scheduler.journal import CostInputs, JournalOpened
from prfaas.scheduler.load_times import LearnedTimes
from prfaas.scheduler.replay import scheduler_from
from prfaas.scheduler.topology import topology_of

logger = logging.getLogger(__name__)
_FEWEST_ENGINES = 64
"""The index has room for so many, or for twice those of the file: others may join."""


class Gateway:
    """Owns every part and every background task; `start` and `close` bracket its life on one event
    loop. ``requests`` answers clients."""

    def __init__(
        self,
        deployment: Deployment,
        endpoints: Endpoints,
        *,
        journal_file: Path | None = None,
        learned_file: Path | None = None,
        seeds: CostInputs | None = None,
    ) -> None:
        """``seeds``: what is known of engines' times before any was seen. Raises
        ConfigError for an unknown policy, or a file that cannot be written."""
        self._learned, self._seeds = LearnedFile(learned_file), seeds or CostInputs()
        self._learned.check()
        self._cache_key = cache_key(deployment)
        self.deployment = deployment
        self.metrics = GatewayMetrics()
        self.access = Access(deployment, self.metrics)
        self.stopping = False
        """Whether it takes no more requests: it is about to end."""
        self._endpoints = Endpoints(endpoints.clusters, endpoints.lines)
        make_policy(deployment.scheduler)  # What cannot be made is better known now.
        self._journal = JournalFile(journal_file)
        self._background = Background(lambda kind: self.metrics.deaths.labels(kind).inc())
        later = partial(self._background.run, "models")
        self.models = ServedModels(self.engines_up, lambda: self._endpoints, later)

    async def start(self) -> None:
        """Begin to watch engines and agents."""
        endpoints = self._endpoints
        news = News(endpoints, self.metrics, lambda event: self._driver.handle(event))
        most_engines = max(_FEWEST_ENGINES, 2 * len(endpoints.engines))
        self._know_all(most_engines)
        self.fleet = Fleet(
            endpoints,
            self.engines,
            self.agents,
            on_up=self._engine_up,
            on_suspected=lambda name, why: self._tell_of(EngineSuspected(name, why)),
            on_down=self._engine_down,
            on_memory=news.memory_counted,
            layouts=Layouts(endpoints, on_known=news.layout_known, on_pairing=news.pairing_changed),
        )
        self.thresholds = ThresholdWatch(lambda: self._driver.scheduler.view)
        self._driver = self._make_driver()
        scheduler = self._driver.scheduler
        found = SchedulerCollector(lambda: self._driver.scheduler, lambda: self.thresholds.found)
        self.metrics.registry.register(found)
        self._driver.on_waiting = lambda: self._session.want()
        self._session = GatewaySession(
            self.deployment.gateway.name,
            outstanding=partial(outstanding_at, scheduler, endpoints),
            on_shares=news.shares_told,
            decided=lambda: scheduler.leading.decided,
            on_decided=news.decided,
        )
        self.drains = Drains(endpoints, self._driver.handle, scheduler.requests_on)
        self.requests = self._make_requests()
        self.lines = LineStates(
            endpoints, on_change=news.link_changed, on_pair=news.machines_changed
        )
        self._reshaping = Reshaping(
            endpoints,
            roster=self._roster,
            fleet=self.fleet,
            drains=self.drains,
            lines=self.lines,
            renderer=self._renderer,
            metrics=self.metrics,
            tell=self._driver.handle,
            at_agent=self._at_agent,
            most_engines=most_engines,
        )
        self._roster.watch(self.fleet, self._at_agent)
        self.run_beside("learned_file", partial(self._learned.keep, self._what_is_learned))
        for index in (self.index, self.pools.index):
            self.run_beside("index", partial(keep_tidy, index))
        self.run_beside("threshold", self.thresholds.run)
        self.run_beside("hot_copies", self.requests.elsewhere.hot_copies.run)
        self.run_beside("certificates", self.access.warn)
        self.run_beside("connections", self.access.end_untrusted)

    def _know_all(self, most_engines: int) -> None:
        """Clients of all engines and agents, and what is known of their caches."""
        self._http, self._agents_http = HttpClient(), HttpClient(AGENT_KEEPALIVE_S)
        most_blocks, key = self.deployment.gateway.max_index_blocks, self._cache_key
        seed = seed_of(key)
        self.index = PrefixIndex(max_blocks=most_blocks, max_engines=most_engines, seed=seed)
        self.pools = Pools(key or PLAINTEXT_KEY, max_blocks=most_blocks, most_holders=most_engines)
        self._feeds = Feeds(
            self._endpoints, self.index, seed, lambda: self.engines, lambda: self.agents
        )
        self._roster = Roster(
            self._endpoints, self._http, self._agents_http, self._background, self._feeds.make
        )
        self._roster.add_clients()
        self.engines, self.agents = self._roster.engines, self._roster.agents
        self.access.show_to(self.engines, self.agents)

    def become(self, deployment: Deployment, *, source: str) -> None:
        """Serve what a new file says. Raises ConfigError, having changed nothing, where that cannot
        be; ``source`` names the file."""
        deployment = deployment.of_gateway(self.deployment.gateway.name)
        access, key = read_access(deployment), cache_key(deployment)
        self._reshaping.become(self.deployment, deployment, source=source)
        self.deployment = deployment
        self.access.take(access)
        self.access.show_to(self.engines, self.agents)
        self.requests.configure(deployment.gateway)
        self.rekey(key)

    def rekey(self, key: bytes | None) -> None:
        """See `Feeds.rekey`; a no-op where it is the same."""
        if key != self._cache_key:
            self._cache_key = key
            self._roster.follow_anew()
            self._feeds.rekey(key, self._roster.feeds.values(), self.pools)

    def run_beside(self, kind: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """A task that goes on until the gateway is closed."""
        self._background.run(kind, work)

    async def close(self) -> None:
        """Stop everything; requests under way must have ended."""
        await self._background.close()
        await self._driver.close()
        await self._session.end(self.agents.values())
        for engine in self.engines.values():
            engine.close()
        await self._http.close()
        await self._agents_http.close()
        self._feeds.close()
        self._learned.write(self._what_is_learned())
        self._journal.close()

    def troubles(self) -> list[str]:
        """Why `/ready` does not say yes; empty if it does."""
        found = ["the gateway is stopping"] if self.stopping else []
        found += self.fleet.troubles()
        answering = self.fleet.up & self._endpoints.answering
        if answering and answering <= self.drains.engines:
            found.append("every engine that could answer is drained")
        return found

    async def stop_serving(self, hurry: asyncio.Event) -> None:
        """Take no more requests and let those under way end, for `GatewayConfig.drain_s` or until
        ``hurry`` is set; then end the rest with an error."""
        self.stopping = True
        self.requests.refuse_more("the gateway is stopping; ask again, it may be another")
        await self.requests.end_all(self.deployment.gateway.drain_s, hurry)

    def feed(self, engine: str) -> Feed:
        """What is known of one engine's prefix cache."""
        return self._roster.feeds[engine]

    def engines_up(self) -> list[EngineClient]:
        """Engines to ask what any of them can answer: near ones first, then those that decode."""
        near, usable = self.deployment.gateway.near, self._usable()
        up = [e for e in self._endpoints.engines.values() if e.name in usable]
        return [self.engines[e.name] for e in sorted(up, key=lambda e: (e.cluster != near, e.role))]

    def update_metrics(self) -> None:
        """Bring gauges up to date, before metrics are read."""
        for feed in self._roster.feeds.values():
            self.metrics.observe_feed(feed)
        self.metrics.distinct_blocks.set(self.index.blocks)
        self.requests.elsewhere.hot_copies.show(self.metrics.hot_copies)
        for name in self.engines:
            role = self._driver.scheduler.view.engines[name].role
            up, draining = name in self.fleet.up, name in self.drains.engines
            self.metrics.observe_engine(name, role, up=up, draining=draining)
        self.metrics.observe_connections(self.access.connections)
        self.metrics.observe_mismatches(self.fleet.layouts.mismatches())
        self.metrics.ready.set(not self.troubles())

    def _make_requests(self) -> RequestFlow:
        fleet = self.fleet
        self._renderer = Renderer(
            self._endpoints.engines,
            self.engines,
            up=self._usable,
            serving=self.models.serving,
            suspect=fleet.suspect,
            near=self.deployment.gateway.near,
        )
        return RequestFlow(
            self.deployment.gateway,
            self._driver,
            renderer=self._renderer,
            models=self.models,
            endpoints=self._endpoints,
            index=self.index,
            metrics=self.metrics,
            journal=self._journal,
            layouts=fleet.layouts,
            new_key=self._session.new_key,
            elsewhere=CachedElsewhere(
                self.pools, fleet.layouts, self._endpoints, self._driver.scheduler.view,
                agents=self.agents, loads=self._loads, new_key=self._session.new_key,
                gateways=lambda: len(self._session.gateways()),
            ),
        )  # fmt: skip

    def _what_is_learned(self) -> LearnedTimes:
        return self._driver.scheduler.learned._replace(fetches=self._loads.fetches.learned())

    def _usable(self) -> frozenset[str]:
        """Engines that may be asked something short; those that drain only where no other is up."""
        return (self.fleet.up - self.drains.engines) or self.fleet.up

    def _make_driver(self) -> Driver:
        config, learned = self.deployment.scheduler, self._learned.read()
        opened = JournalOpened(
            driver="gateway",
            unix_time=time.time(),
            topology=topology_of(self.deployment, alignment_tokens=None, up=False),
            scheduler=config,
            costs=learned.beside(self._seeds),
        )
        self._journal.write(time.monotonic(), opened)
        scheduler = scheduler_from(opened)
        rates = self.pools.disk_rates
        self._loads = LoadCosts(self._endpoints, scheduler.view, opened.costs, rates)
        return Driver(
            scheduler,
            self._endpoints,
            self.engines,
            self.agents,
            layouts=self.fleet.layouts,
            suspect=self.fleet.suspect,
            poll_s=min(2.0, config.transfer_stall_s / 4),
            journal=self._journal,
            on_drained=lambda engine: self._reshaping.drained(engine),
            on_role=self.metrics.observe_role,
            on_arrival=self.thresholds.arrived,
        )

    def _at_agent(self, agent: AgentClient) -> list[Watch]:
        return [
            ("link_states", partial(watch_links, agent, self.lines)),
            ("cache_news", partial(watch_cache, agent, self.pools)),
            ("session", partial(self._session.hold, agent)),
        ]

    def _engine_up(self, name: str) -> None:
        self._roster.follow(name)
        self._background.run("models", partial(self.models.learn, self.engines[name]))
        layout, ask = self.fleet.layouts.layout(name), self.engines[name].kv_blocks
        learn = partial(learn_kv_memory, name, layout, ask, self._tell_of)
        self._background.run("kv_memory", learn)
        self._tell_of(EngineUp(name, self.fleet.takes_handoffs(name), self.fleet.is_alike(name)))

    def _engine_down(self, name: str, why: str) -> None:
        self._roster.unfollow(name)
        self.models.forget(name)
        self._tell_of(EngineDown(name, why))

    def _tell_of(self, event: EngineUp | EngineSuspected | EngineDown | KvMemoryKnown) -> None:
        # It may be about to be forgotten here as well.
        if event.engine in self._driver.scheduler.view.engines:
            self._driver.handle(event)
