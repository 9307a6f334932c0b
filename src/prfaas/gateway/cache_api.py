"""The operators' part of the HTTP front about caches: what there is, for which prompt, prompts that
are computed ahead, and those that are to stay."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

import msgspec
from aiohttp import web

from prfaas.core.errors import UNREADABLE, LinkError
from prfaas.gateway.access import Access
from prfaas.gateway.agent_client import AgentClient, CacheSizes
from prfaas.gateway.api_errors import RequestRefused
from prfaas.gateway.body import RequestBody
from prfaas.gateway.client_api import REQUEST_ID
from prfaas.gateway.dialects import Endpoint
from prfaas.gateway.pools import Pools
from prfaas.gateway.requests import RequestFlow
from prfaas.gateway.tenants import Tenant
from prfaas.gateway.upstream_errors import LocalFault
from prfaas.gateway.whole_answer import json_answer


class CacheReport(msgspec.Struct, frozen=True):
    """What ``GET /cache`` answers. ``agents``: how many parts of transfers each has cached, as far
    as it has told. ``blocks``: distinct blocks of prefixes that are known, by where they lie.
    ``sizes``: of agents' caches; those that do not answer are left out."""

    agents: Mapping[str, int]
    blocks: Mapping[str, int]
    sizes: Mapping[str, CacheSizes] = {}


class EngineCache(msgspec.Struct, frozen=True):
    """How many of a prompt's first tokens an engine need not compute. ``pool_tokens``: so many it
    would load from its agent's cache; 0: it goes by its own."""

    cached_tokens: int
    pool_tokens: int


class QueryReport(msgspec.Struct, frozen=True):
    """What ``POST /cache/query`` answers; engines and agents that have nothing are left out.
    ``agents``: tokens that they keep under this very prompt, and could pin."""

    prompt_tokens: int
    engines: Mapping[str, EngineCache]
    agents: Mapping[str, int] = {}


class WarmReport(msgspec.Struct, frozen=True):
    """What ``POST /cache/warm`` answers: the prompt was computed, or had been. ``cached_tokens``:
    the most that an engine had of it before. ``took_s``: seconds. Its agent tells of it soon
    after."""

    prompt_tokens: int
    cached_tokens: int
    engine: str
    route: str
    took_s: float


class PinnedAt(msgspec.Struct, frozen=True):
    """``tokens`` of the prompt stay at this agent; ``error``: why they do not."""

    tokens: int
    error: str | None = None


class PinReport(msgspec.Struct, frozen=True):
    """What ``POST /cache/pin`` and ``/cache/unpin`` answer, by agent."""

    prompt_tokens: int
    agents: Mapping[str, PinnedAt]


class CacheApi:
    """Handlers; all ask for an operator's key where there are some. A prompt is given as the
    completion or chat request that asks it; where tenants have caches of their own, ``?tenant=``
    says whose.

    Args:
        engine_blocks: distinct blocks that engines hold in their own caches.
    """

    def __init__(
        self,
        flow: RequestFlow,
        pools: Pools,
        engine_blocks: Callable[[], int],
        access: Access,
        agents: Callable[[], Mapping[str, AgentClient]],
    ) -> None:
        self._flow, self._pools, self._engine_blocks = flow, pools, engine_blocks
        self._access, self._agents = access, agents

    def add_routes(self, app: web.Application) -> None:
        """Serve them."""
        app.router.add_get("/cache", self.show)
        app.router.add_post("/cache/query", self.query)
        app.router.add_post("/cache/warm", self.warm)
        app.router.add_post("/cache/pin", self.pin)
        app.router.add_post("/cache/unpin", self.unpin)

    async def show(self, request: web.Request) -> web.Response:
        """What is cached where."""
        self._access.check_operator(request)
        blocks = {"engines": self._engine_blocks(), "agents": self._pools.index.blocks}
        agents = list(self._agents().values())
        sizes = await asyncio.gather(*map(_sizes, agents))
        known = {a.name: size for a, size in zip(agents, sizes, strict=True) if size is not None}
        return json_answer(CacheReport(self._pools.entries(), blocks, known))

    async def query(self, request: web.Request) -> web.Response:
        """Who has how much of a prompt."""
        self._access.check_operator(request)
        async with self._flow.reading(request) as raw:
            body = self._body(request, raw)
            ids, adapter, found = await self._flow.query(body)
        engines = {
            name: EngineCache(tokens, found.pool.get(name, 0))
            for name, tokens in found.cached.items()
        }
        whole = self._pools.whole(ids, salt=body.cache_salt, adapter=adapter)
        agents = {holder.agent: path[0].prefix.end_token for holder, path in whole.items()}
        return json_answer(QueryReport(len(ids), engines, agents))

    async def warm(self, request: web.Request) -> web.StreamResponse:
        """Have a prompt computed, and its agent keep it; it is answered as any request is, with one
        token, which nobody gets. Errors are those of the request."""
        self._access.check_operator(request)
        began = time.monotonic()
        with self._tenant(request).using() as use:
            async with self._flow.reading(request) as raw:
                body = self._body(request, raw)
                if body.prompts > 1:
                    raise RequestRefused(400, "send one prompt at a time", param="prompt")
                body.warm()
                ids, _, found = await self._flow.query(body)
                answer = await self._flow.complete(
                    request, body, request[REQUEST_ID], use, tells=True
                )
        if answer.status != 200:
            return answer
        had, headers = max(found.cached.values(), default=0), answer.headers
        engine, route = headers["x-prfaas-decode-engine"], headers["x-prfaas-route"]
        return json_answer(WarmReport(len(ids), had, engine, route, time.monotonic() - began))

    async def pin(self, request: web.Request) -> web.Response:
        """What agents have cached of a prompt stays there. 409: none has it as one of its own."""
        return await self._at_agents(request, lambda agent, name: agent.pin(name))

    async def unpin(self, request: web.Request) -> web.Response:
        """It is evicted as others are."""
        return await self._at_agents(request, lambda agent, name: agent.unpin(name))

    async def _at_agents(
        self, request: web.Request, do: Callable[[AgentClient, str], Awaitable[None]]
    ) -> web.Response:
        self._access.check_operator(request)
        async with self._flow.reading(request) as raw:
            body = self._body(request, raw)
            ids, adapter, _ = await self._flow.query(body)
        whole = self._pools.whole(ids, salt=body.cache_salt, adapter=adapter)
        if not whole:
            raise RequestRefused(
                409, "no agent has this prompt cached: have it computed with POST /cache/warm first"
            )
        clients, found = self._agents(), {}
        for holder, path in whole.items():
            try:
                await do(clients[holder.agent], path[0].transfer_id)
                found[holder.agent] = PinnedAt(path[0].prefix.end_token)
            except (LinkError, LocalFault, KeyError) as error:
                found[holder.agent] = PinnedAt(0, str(error))
        return json_answer(PinReport(len(ids), found))

    def _body(self, request: web.Request, raw: bytes) -> RequestBody:
        body = RequestBody(_endpoint(raw), raw)
        isolated = self._access.tenants.isolated
        body.belong_to(self._tenant(request).name if isolated else None)
        return body

    def _tenant(self, request: web.Request) -> Tenant:
        """Whose the prompt is. Raises RequestRefused where that is not said and makes a
        difference."""
        tenants = {tenant.name: tenant for tenant in self._access.tenants}
        name = request.query.get("tenant")
        if name is None and len(tenants) == 1:
            return next(iter(tenants.values()))
        if name not in tenants:
            known = ", ".join(sorted(tenants))
            raise RequestRefused(400, f"say whose prompt it is: ?tenant= one of {known}")
        return tenants[name]


async def _sizes(agent: AgentClient) -> CacheSizes | None:
    try:
        return await agent.cache_sizes()
    except (LinkError, LocalFault):
        return None


def _endpoint(raw: bytes) -> Endpoint:
    try:
        fields = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except UNREADABLE as error:
        raise RequestRefused(400, f"the body is not a JSON object: {error}") from error
    if "messages" in fields:
        return "/v1/chat/completions"
    if "prompt" in fields:
        return "/v1/completions"
    raise RequestRefused(400, "send a completion request ('prompt') or a chat ('messages')")
