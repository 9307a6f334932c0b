"""The gateway put together: clients, watchers, index, scheduler, and one request's way through."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import zmq.asyncio
from aiohttp import web

from prfaas.core.deployment import Deployment
from prfaas.gateway.adapters import Adapters
from prfaas.gateway.agent_client import AgentClient
from prfaas.gateway.body import RequestBody
from prfaas.gateway.driver import Driver
from prfaas.gateway.endpoints import Endpoints, EngineEndpoint, at_host
from prfaas.gateway.engine_client import EngineAnswer, EngineClient
from prfaas.gateway.exchange import Exchange, Prompt
from prfaas.gateway.fleet import Fleet
from prfaas.gateway.kv_events import KvEventFeed
from prfaas.gateway.links import LinkWatch
from prfaas.gateway.metrics import GatewayMetrics
from prfaas.gateway.openai_errors import ApiError, too_many_requests, unavailable
from prfaas.gateway.prompts import Renderer, usable_prefix
from prfaas.gateway.trace import TraceLog, TraceRecord
from prfaas.index.prefix_index import EngineIndex, PromptKeys
from prfaas.policies.costs import LearnedCosts
from prfaas.policies.registry import make_policy
from prfaas.scheduler.events import EngineDown, EngineUp, LinkStateChanged, RequestArrived
from prfaas.scheduler.scheduler import Scheduler
from prfaas.scheduler.topology import topology_of

logger = logging.getLogger(__name__)

_S_PER_OUTPUT_TOKEN = 1.0
_MOST_OUTPUT_S = 3600.0
"""An answer that is not streamed shows its first byte only when it is complete, so its deadline
grows with every token it may have. Up to an hour: where ``max_tokens`` is all that the model could
say, days would say nothing."""
_RECENT = 50
_KEEPALIVE_S = 3.0
"""vLLM's server closes a connection that was idle for 5 s: one used just then would be lost, and
its request with it."""


class Gateway:
    """Owns every background task; `start` and `close` bracket its life on one event loop."""

    def __init__(
        self, deployment: Deployment, endpoints: Endpoints, *, trace_file: Path | None = None
    ) -> None:
        """Raises ConfigError for an unknown policy or a trace file that cannot be written."""
        self.deployment = deployment
        self.metrics = GatewayMetrics()
        self._endpoints = endpoints
        self._trace = TraceLog(trace_file)
        self.recent: deque[TraceRecord] = deque(maxlen=_RECENT)
        """Requests that have ended, the newest first."""
        self._policy = make_policy(deployment.scheduler)
        self._deadline_s = deployment.gateway.request_deadline_s
        self._driver: Driver | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._feed_tasks: dict[str, asyncio.Task[None]] = {}
        self._inflight = 0
        self._block_tokens = 0
        self._adapters = Adapters(self.engines_up)

    async def start(self) -> None:
        """Begin to watch engines and agents."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_S),
            auto_decompress=False,
            skip_auto_headers=["Accept-Encoding"],
        )
        self._zmq = zmq.asyncio.Context()
        engines, endpoints = self._endpoints.engines, self._endpoints
        self.engines = {n: EngineClient(n, e.url, self._session) for n, e in engines.items()}
        self._agents = {
            c.name: AgentClient(c.agent, c.agent_url, self._session) for c in endpoints.clusters
        }
        self._feeds = {name: self._make_feed(engine) for name, engine in engines.items()}
        self.fleet = Fleet(
            endpoints,
            self.engines,
            self._agents,
            on_up=self._engine_up,
            on_down=self._engine_down,
            on_restart=self._engine_restarted,
        )
        self._renderer = Renderer(
            engines, self.engines, up=lambda: self.fleet.up, suspect=self.fleet.suspect
        )
        for name in engines:
            self._run(self.fleet.watch_engine(name))
        for cluster in endpoints.clusters:
            self._run(self.fleet.watch_agent(cluster.name))
        self._run(self._schedule_once_layout_is_known())

    async def close(self) -> None:
        """Stop everything; requests under way must have ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._driver is not None:
            await self._driver.close()
        await self._session.close()
        self._zmq.destroy(linger=0)
        self._trace.close()

    def troubles(self) -> list[str]:
        """Why `/ready` does not say yes; empty if it does."""
        found = self.fleet.troubles()
        return found if found or self._driver is not None else ["starting"]

    def feed(self, engine: str) -> KvEventFeed:
        """What is known of one engine's prefix cache."""
        return self._feeds[engine]

    def engines_up(self) -> list[EngineClient]:
        """Engines to ask what any of them can answer; decode engines first, they are near."""
        up = [e for e in self._endpoints.engines.values() if e.name in self.fleet.up]
        return [self.engines[e.name] for e in sorted(up, key=lambda e: e.role)]

    def update_metrics(self) -> None:
        """Bring gauges up to date, before metrics are read."""
        for feed in self._feeds.values():
            self.metrics.observe_feed(feed)
        for name in self.engines:
            self.metrics.engine_up.labels(name).set(name in self.fleet.up)
        self.metrics.layout_mismatches.set(len(self.fleet.mismatches))
        self.metrics.ready.set(not self.troubles())

    # -- one request ----------------------------------------------------------------------------

    async def complete(
        self, request: web.Request, body: RequestBody, request_id: str
    ) -> web.StreamResponse:
        """Answer one completion or chat request. Raises ApiError."""
        key = Driver.new_key()
        exchange = Exchange(key, request_id, request, body, deadline_s=self._deadline_s)
        self._inflight += 1
        self.metrics.inflight.set(self._inflight)
        try:
            await self._see_through(exchange)
            return exchange.done.result()
        finally:
            self._inflight -= 1
            self.metrics.inflight.set(self._inflight)
            self.metrics.observe_request(exchange.trace)
            self._trace.write(exchange.trace)
            self.recent.appendleft(exchange.trace)

    async def _see_through(self, exchange: Exchange) -> None:
        driver = self._driver
        if driver is None:
            exchange.fail(unavailable("; ".join(self.troubles())))
            return
        if self._inflight > self.deployment.gateway.max_inflight_requests:
            exchange.fail(too_many_requests())
            return
        try:
            async with asyncio.timeout(self._deadline_s):
                prompt = await self._renderer.render(exchange.body, exchange.engine_headers)
                if isinstance(prompt, EngineAnswer):
                    exchange.give(prompt)
                    return
                adapter = await self._adapters.find(exchange.body.model)
        except ApiError as error:
            exchange.fail(error)
            return
        except TimeoutError:
            exchange.fail(ApiError(504, "deadline passed while tokenising", kind="timeout_error"))
            return
        exchange.trace.rendered_s = exchange.elapsed_s()
        await driver.answer(exchange, self._arrival(exchange, prompt, adapter))

    def _arrival(self, exchange: Exchange, prompt: Prompt, adapter: str | None) -> RequestArrived:
        """The request as the scheduler sees it. One that must reach an engine untouched counts as
        one token long: there is nothing to hand over."""
        exchange.prompt = prompt
        trace = exchange.trace
        trace.stream, trace.max_output_tokens = prompt.stream, prompt.max_output_tokens
        if not prompt.stream:
            output_s = prompt.max_output_tokens * exchange.body.choices * _S_PER_OUTPUT_TOKEN
            exchange.deadline_s += min(output_s, _MOST_OUTPUT_S)
        cached: dict[str, int] = {}
        resumable: dict[str, int] = {}
        if prompt.token_ids is not None:
            salt = exchange.body.cache_salt
            keys = PromptKeys(prompt.token_ids, salt=salt, adapter=adapter)
            cached, resumable = self._cached(keys, len(prompt.token_ids))
            trace.total_tokens = len(prompt.token_ids)
            exchange.cached = cached
        return RequestArrived(
            exchange.key,
            total_tokens=len(prompt.token_ids or "1"),
            max_output_tokens=prompt.max_output_tokens,
            cached=cached,
            resumable=resumable,
            deadline=time.monotonic() + exchange.time_left_s(),
        )

    def _cached(
        self, keys: PromptKeys, prompt_tokens: int
    ) -> tuple[dict[str, int], dict[str, int]]:
        """What each engine holds of the prompt, and what of it it can go on from by itself."""
        cached: dict[str, int] = {}
        resumable: dict[str, int] = {}
        for name, feed in self._feeds.items():
            match = feed.follower.index.match(keys)
            tokens = usable_prefix(
                self._endpoints.engines[name],
                match,
                prompt_tokens=prompt_tokens,
                block_tokens=self._block_tokens,
            )
            if tokens > 0:
                cached[name] = tokens
                if match.reusable_tokens < tokens:
                    resumable[name] = match.reusable_tokens
        return cached, resumable

    # -- what the watchers tell -----------------------------------------------------------------

    async def _schedule_once_layout_is_known(self) -> None:
        """The scheduler needs the hand-off block size, which an engine registers with its agent."""
        await self.fleet.layout_known.wait()
        layout = self.fleet.layout()
        assert layout is not None
        block_tokens = layout.alignment_tokens
        self._block_tokens = block_tokens
        config = self.deployment.scheduler
        topology = topology_of(self.deployment, alignment_tokens=block_tokens, up=False)
        costs = LearnedCosts(topology.cluster_of, layout.handoff_bytes)
        driver = Driver(
            Scheduler(topology, self._policy, config, costs=costs),
            self._endpoints,
            self.engines,
            self._agents,
            ranks=self.fleet.ranks,
            suspect=self.fleet.suspect,
            poll_s=min(2.0, config.transfer_stall_s / 4),
        )
        for name in self.fleet.up:
            driver.handle(EngineUp(name))
        self._driver = driver
        for cluster in self._endpoints.clusters:
            watch = LinkWatch(
                cluster, self._endpoints, self._agents[cluster.name], on_change=self._link_changed
            )
            self._run(watch.run())

    def _link_changed(self, event: LinkStateChanged) -> None:
        assert self._driver is not None
        self.metrics.link_up.labels(event.source, event.target).set(event.up)
        self._driver.handle(event)

    def _engine_up(self, name: str) -> None:
        self._feed_tasks[name] = self._run(self._feeds[name].run())
        self._run(self._adapters.learn(self.engines[name]))
        if self._driver is not None:
            self._driver.handle(EngineUp(name))

    def _engine_down(self, name: str, why: str) -> None:
        self._feed_tasks.pop(name).cancel()
        if self._driver is not None:
            self._driver.handle(EngineDown(name, why))

    def _engine_restarted(self, name: str) -> None:
        if name in self.fleet.up:
            self._engine_down(name, "it was restarted")
            self._engine_up(name)

    def _make_feed(self, engine: EngineEndpoint) -> KvEventFeed:
        return KvEventFeed(engine.name, EngineIndex(), partial(self._source, engine), self._zmq)

    async def _source(self, engine: EngineEndpoint) -> tuple[str, str | None]:
        client = self.engines[engine.name]
        events, replay = engine.kv_events, engine.kv_events_replay
        if events is None:
            events, replay = await client.kv_event_source()
        return at_host(events, engine.url), replay and at_host(replay, engine.url)

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (bug := task.exception()) is not None:
            logger.critical("a background task of the gateway failed", exc_info=bug)
