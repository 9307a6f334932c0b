"""The way of a request: rendered, matched with the caches, handed to the driver, accounted for."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial

from aiohttp import web

from prfaas.core.deployment import GatewayConfig
from prfaas.gateway.access_log import log_access
from prfaas.gateway.admission import slots_of, too_late
from prfaas.gateway.api_errors import (
    ApiError,
    DeadlinePassed,
    RequestRefused,
    ServiceUnavailable,
    TooManyRequests,
)
from prfaas.gateway.arrivals import arrival, first_byte_within_s
from prfaas.gateway.bodies import Bodies, Places, name_apart
from prfaas.gateway.body import RequestBody
from prfaas.gateway.cached_elsewhere import CachedElsewhere
from prfaas.gateway.driver import Driver
from prfaas.gateway.endpoints import Endpoints
from prfaas.gateway.engine_client import EngineAnswer
from prfaas.gateway.exchange import Exchange
from prfaas.gateway.facts import RequestFacts
from prfaas.gateway.journal_file import JournalFile
from prfaas.gateway.layouts import Layouts
from prfaas.gateway.metrics import GatewayMetrics
from prfaas.gateway.prefix_matches import NO_MATCHES, Matches, match_engines
from prfaas.gateway.prompts import Prompt, Renderer, refusing_odd_token_ids, short_prompt
from prfaas.gateway.pulls import PromptToPull
from prfaas.gateway.served_models import ServedModels
from prfaas.gateway.tenants import Tenant, Use
from prfaas.gateway.token_ids import TokenIds
from prfaas.gateway.tracing import NO_TRACING, Trace
from prfaas.index.keys import PromptKeys
from prfaas.index.prefix_index import PrefixIndex
from prfaas.scheduler.scheduler import Scheduler

logger = logging.getLogger(__name__)

_LAST_WORDS_S = 2.0
"""How long a client may take to take in that its answer is cut off."""
_RECENT = 50
"""Ended requests that are shown: what fits a screen, and little memory."""


class RequestFlow:
    """Answers requests.

    Args:
        index: what the engines' prefix caches hold.
        elsewhere: what the agents' caches hold.
        layouts: how engines hold their KV cache, as far as they have registered.
        new_key: makes a fresh name for a request, fit to be the stem of transfer ids.
    """

    def __init__(
        self,
        config: GatewayConfig,
        driver: Driver,
        *,
        renderer: Renderer,
        models: ServedModels,
        endpoints: Endpoints,
        index: PrefixIndex,
        metrics: GatewayMetrics,
        journal: JournalFile,
        layouts: Layouts,
        new_key: Callable[[], str],
        elsewhere: CachedElsewhere,
    ) -> None:
        self._bodies = Bodies(config.max_bodies_bytes, config.request_deadline_s)
        self._places = Places(config.max_inflight_requests)
        self._beside = 0  # Requests that have a place, and are not in flight.
        self.configure(config)
        self._renderer = renderer
        self._models = models
        self._endpoints = endpoints
        self._index = index
        self._metrics = metrics
        metrics.inflight.set_function(lambda: self.inflight)
        self._journal = journal
        self._driver = driver
        self._layouts = layouts
        self._new_key = new_key
        self.elsewhere = elsewhere
        self.inflight = 0
        self._live: set[Exchange] = set()
        self.tracing = NO_TRACING
        self._refusal: str | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self.recent: deque[RequestFacts] = deque(maxlen=_RECENT)
        """Requests that have ended, the newest first."""

    def configure(self, config: GatewayConfig) -> None:
        """From the next request on it goes by these settings."""
        self._deadline_s = config.request_deadline_s
        self._keepalive_s = config.keepalive_s
        self._places.most = config.max_inflight_requests
        self._most_waiting_tokens = config.most_waiting_tokens
        self._longest_wait_s = config.max_wait_s
        self._bodies.most_bytes = config.max_bodies_bytes
        self._bodies.within_s = config.request_deadline_s

    @property
    def scheduler(self) -> Scheduler:
        """To read only."""
        return self._driver.scheduler

    def listen(self, listener: Callable[..., None]) -> None:
        """``listener`` is given all that the journal is given, as `JournalFile.write` is."""
        self._journal.listener = listener

    def refuse_more(self, why: str) -> None:
        """From now on every new request gets 503 and may ask another gateway."""
        self._refusal = why

    async def end_all(self, within_s: float, hurry: asyncio.Event) -> None:
        """Wait until nothing is under way; after ``within_s``, or when ``hurry`` is set, end what
        is left with an error. Call `refuse_more` before."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self._idle, hurry)]
        try:
            await asyncio.wait(waits, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self._live:
            logger.warning("%d requests are cut off", len(self._live))
        for exchange in list(self._live):
            exchange.attempts.stop_all()
            exchange.fail(ServiceUnavailable("the gateway ended before the answer did"))
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_S):
                await self._idle.wait()

    @asynccontextmanager
    async def reading(
        self, request: web.Request, tenant: Tenant | None = None, *, keeps: bool = False
    ) -> AsyncIterator[bytes]:
        """A request's body, if it may be read. ``keeps``: so is its place, until the block ends.
        Raises ApiError, and as `Bodies.reading` does."""
        if self._refusal is not None:
            raise ServiceUnavailable(self._refusal)
        with self.place(tenant):
            self._beside += 1
            try:
                async with self._bodies.reading(request, whose=name_apart(tenant)) as raw:
                    self._beside -= not keeps
                    try:
                        yield raw
                    finally:
                        self._beside += not keeps
            finally:
                self._beside -= 1

    @contextmanager
    def place(self, tenant: Tenant | None) -> Iterator[None]:
        """A place among its requests for as long as the block lasts, also for one that another
        gateway has let in and read. Raises TooManyRequests."""
        with self._places.one(self.inflight + self._beside, tenant):
            yield

    async def complete(
        self, request: web.Request, body: RequestBody, request_id: str, use: Use, *, tells: bool
    ) -> web.StreamResponse:
        """Answer one completion or chat request. Raises ApiError; cancelled with the client."""
        if self._refusal is not None:
            raise ServiceUnavailable(self._refusal)
        key, deadline_s = self._new_key(), self._deadline_s
        exchange = Exchange(key, request_id, request, body, use, deadline_s=deadline_s, tells=tells)
        self._live.add(exchange)
        self._count()
        exchange.keep_alive(self._keepalive_s)
        trace = self.tracing.begin(exchange.facts, exchange.engine_headers)
        exchange.engine_headers |= trace.headers()
        try:
            await self._see_through(exchange)
            return await exchange.response.done
        finally:
            use.refused = exchange.facts.refused
            use.told_tokens = (exchange.facts.answer_tokens or 0) + exchange.prompt_uncounted
            self._live.discard(exchange)
            self._count()
            self._ended(exchange, trace)

    def _ended(self, exchange: Exchange, trace: Trace) -> None:
        facts, elapsed_s = exchange.facts, exchange.elapsed_s()
        self._metrics.observe_request(facts)
        exchange.end()
        self.recent.appendleft(facts)
        trace.end(facts, elapsed_s)
        log_access(facts, elapsed_s)
        self._journal.write(time.monotonic(), facts.ended(exchange.key, exchange.received_at))

    def _count(self) -> None:
        self.inflight = len(self._live)
        (self._idle.clear if self._live else self._idle.set)()

    async def _see_through(self, exchange: Exchange) -> None:
        found = await self._prompt(exchange)
        if found is None:
            return
        prompt, adapter = found
        self._take(exchange, prompt)
        sequences = slots_of(exchange.body, self.scheduler.view)
        refusal = self._too_late(exchange, sequences)
        if refusal is not None:
            exchange.fail(refusal)
            return
        try:  # Last: what is refused has used none of them.
            exchange.use.take_tokens(*exchange.tokens())
            matches = self._match(prompt, exchange.body.cache_salt, adapter)
        except ApiError as error:
            exchange.fail(error)
            return
        exchange.facts.cached, exchange.facts.pool = matches.cached, matches.pool
        exchange.on_end = partial(self.elsewhere.ended, exchange, matches.agents, adapter)
        exchange.facts.pulls, exchange.facts.at_agent = matches.pulls, matches.at_agent
        exchange.facts.from_disk = matches.from_disk
        exchange.loadable = partial(self.elsewhere.loadable, exchange)
        deadline = exchange.received_at + exchange.deadline_s
        await self._driver.answer(
            exchange,
            arrival(
                exchange.key,
                prompt,
                matches,
                sequences=sequences,
                deadline=deadline,
                priority=exchange.body.priority,
                tenant=exchange.use.tenant.config,
                serving=self._models.serving(exchange.body.model),
            ),
        )

    async def _prompt(self, exchange: Exchange) -> tuple[Prompt, str | None] | None:
        """The prompt, and its adapter if it is tokenised; None: its client has been answered."""
        try:
            async with asyncio.timeout(exchange.deadline_s):
                await self._models.look(exchange.body.model)
                if (short := self._short(exchange)) is not None:
                    return short, None
                prompt = await self._renderer.render(exchange.body, exchange.engine_headers)
                if isinstance(prompt, EngineAnswer):
                    await exchange.response.give(prompt)
                    return None
                return prompt, await self._models.adapter(exchange.body.model)
        except ApiError as error:
            exchange.fail(error)
        except TimeoutError:
            exchange.fail(DeadlinePassed("deadline passed while tokenising"))
        return None

    def _short(self, exchange: Exchange) -> Prompt | None:
        """The prompt, where it is too short to be tokenised, and nobody counts its tokens."""
        if exchange.body.keeps or exchange.use.tenant.counts_tokens:
            return None
        blocks = self._layouts.least_block_tokens(self._endpoints.engines)
        return short_prompt(exchange.body, blocks)

    def _too_late(self, exchange: Exchange, sequences: int) -> TooManyRequests | None:
        return too_late(
            self._driver.scheduler.queues,
            exchange,
            sequences,
            by_all=self._models.serving(exchange.body.model) is None,
            longest_wait_s=self._longest_wait_s,
            most_tokens=self._most_waiting_tokens,
        )

    def _take(self, exchange: Exchange, prompt: Prompt) -> None:
        """The prompt is known: so are its length, its deadline, and how it will be answered."""
        exchange.prompt = prompt
        if prompt.unsaid and (context := self._models.context_tokens(exchange.body.model)):
            exchange.context_tokens = min(context, exchange.context_tokens)
        exchange.deadline_s = first_byte_within_s(
            exchange.deadline_s, prompt, choices=exchange.body.choices
        )
        facts = exchange.facts
        facts.rendered_s = exchange.elapsed_s()
        facts.stream, facts.why_alone = prompt.stream, prompt.why_alone
        facts.total_tokens = None if prompt.token_ids is None else len(prompt.token_ids)
        facts.about_tokens = prompt.about_tokens

    async def query(self, body: RequestBody) -> tuple[TokenIds, str | None, Matches]:
        """A request's prompt, its adapter, and who has how much of it cached. Raises ApiError."""
        await self._models.look(body.model)
        prompt = await self._renderer.render(body, {})
        if isinstance(prompt, EngineAnswer):
            raise RequestRefused(prompt.status, f"the prompt is refused: {prompt.body[:500]!r}")
        ids, adapter = prompt.sound_ids(), await self._models.adapter(body.model)
        return ids, adapter, self._match(prompt, body.cache_salt, adapter)

    @refusing_odd_token_ids()
    def _match(self, prompt: Prompt, salt: str | None, adapter: str | None) -> Matches:
        token_ids = prompt.token_ids
        if token_ids is None:
            return NO_MATCHES
        keys = PromptKeys(token_ids, salt=salt, adapter=adapter)
        engines = self._endpoints.engines
        found = match_engines(
            keys,
            self._index,
            engines,
            prompt_tokens=len(token_ids),
            alignment_tokens=self._layouts.alignment_tokens,
        )
        return self.elsewhere.beside(found, keys, PromptToPull(len(token_ids), salt, adapter))
