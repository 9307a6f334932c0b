"""The operators' part of the HTTP front about caches: what there is, and for which prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
from aiohttp import web

from prfaas.core.errors import UNREADABLE
from prfaas.gateway.access import Access
from prfaas.gateway.body import RequestBody
from prfaas.gateway.dialects import Endpoint
from prfaas.gateway.openai_errors import RequestRefused
from prfaas.gateway.pools import Pools
from prfaas.gateway.requests import RequestFlow


class CacheReport(msgspec.Struct, frozen=True):
    """What ``GET /cache`` answers. ``agents``: how many parts of transfers each has cached, as far
    as it has told. ``blocks``: distinct blocks of prefixes that are known, by where they lie."""

    agents: Mapping[str, int]
    blocks: Mapping[str, int]


class EngineCache(msgspec.Struct, frozen=True):
    """How many of a prompt's first tokens an engine need not compute. ``pool_tokens``: so many it
    would load from its agent's cache; 0: it goes by its own."""

    cached_tokens: int
    pool_tokens: int


class QueryReport(msgspec.Struct, frozen=True):
    """What ``POST /cache/query`` answers; engines that have nothing are left out."""

    prompt_tokens: int
    engines: Mapping[str, EngineCache]


class CacheApi:
    """Handlers; both ask for an operator's key where there are some.

    Args:
        engine_blocks: distinct blocks that engines hold in their own caches.
    """

    def __init__(
        self,
        flow: RequestFlow,
        pools: Pools,
        engine_blocks: Callable[[], int],
        access: Access,
    ) -> None:
        self._flow, self._pools, self._engine_blocks = flow, pools, engine_blocks
        self._access = access

    def add_routes(self, app: web.Application) -> None:
        """Serve them."""
        app.router.add_get("/cache", self.show)
        app.router.add_post("/cache/query", self.query)

    async def show(self, request: web.Request) -> web.Response:
        """What is cached where."""
        self._access.check_operator(request)
        blocks = {"engines": self._engine_blocks(), "agents": self._pools.index.blocks}
        return _json(CacheReport(self._pools.entries(), blocks))

    async def query(self, request: web.Request) -> web.Response:
        """Who has how much of a prompt, given as the completion or chat request that asks it."""
        self._access.check_operator(request)
        async with self._flow.reading(request) as raw:
            body = RequestBody(_endpoint(raw), raw)
            prompt_tokens, found = await self._flow.query(body)
        engines = {
            name: EngineCache(tokens, found.pool.get(name, 0))
            for name, tokens in found.cached.items()
        }
        return _json(QueryReport(prompt_tokens, engines))


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


def _json(report: CacheReport | QueryReport) -> web.Response:
    return web.Response(body=msgspec.json.encode(report), content_type="application/json")
