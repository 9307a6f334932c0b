"""What clients ask for: answers of models, and what an engine answers by itself."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

from aiohttp import web

from prfaas.core.errors import EngineError
from prfaas.gateway import media_names
from prfaas.gateway.api_errors import RequestRefused, ServiceUnavailable
from prfaas.gateway.body import RequestBody, tenant_salt
from prfaas.gateway.dialects import Endpoint
from prfaas.gateway.engine_client import EngineAnswer
from prfaas.gateway.gateway import Gateway
from prfaas.gateway.json_fields import model_named_in
from prfaas.gateway.tenants import Tenant, Use
from prfaas.gateway.upstream_errors import EngineUnreachable, LocalFault
from prfaas.gateway.usage import counts_in
from prfaas.gateway.whole_answer import TENANT, WholeAnswer, json_answer

REQUEST_ID = web.RequestKey("request_id", str)

_ANSWERED: tuple[Endpoint, ...] = (
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/messages",
)
_TOLD = ("/tokenize", "/detokenize", "/v1/messages/count_tokens")
_POOLED = (
    "/v1/embeddings",
    "/v2/embed",
    "/pooling",
    "/classify",
    "/score",
    "/v1/score",
    "/rerank",
    "/v1/rerank",
    "/v2/rerank",
)
"""One pass over its inputs and no KV cache to hand over: any engine that serves it does."""
_UNSALTED = frozenset({"/v2/embed"})
"""An engine is not told there whose cache it is to use: its API has no field for that."""
_MOST_FAILURES = 2
"""So many engines may fail at one request: it may be what they die of."""
_LACKS_S = 10.0
"""How long an engine that has no such endpoint is not asked for it again: they may be thousands."""


class ClientApi:
    """Handlers for clients; what they raise is answered by a middleware.

    ``also``: gateways of other deployments, which answer for the models that they have. Who may
    ask, and for how much, is said by ``gateway`` alone.
    """

    def __init__(self, gateway: Gateway, also: Sequence[Gateway] = ()) -> None:
        self._gateway, self._all = gateway, (gateway, *also)
        for other in also:
            gateway.access.tenants.meet(other.access.tenants)
        self._lacks: dict[tuple[Gateway, str, str], float] = {}
        """Whose engine, and the endpoint that it has not -> when that was, by the event loop's
        clock."""

    def add_routes(self, app: web.Application) -> None:
        """Serve them."""
        for endpoint in _ANSWERED:
            app.router.add_post(endpoint, self.answer)
        for path in _TOLD:
            app.router.add_post(path, self.pass_on)
        for path in _POOLED:
            app.router.add_post(path, self.pool)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/v1/models/{model:.+}", self.model)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """An answer that a model generates."""
        endpoint = next(path for path in _ANSWERED if path == request.path)
        access, tenant = self._gateway.access, request[TENANT]
        with tenant.using() as use:
            flow = self._gateway.requests
            async with flow.reading(request, tenant) as raw:
                body = RequestBody(endpoint, raw)
                self._claim(body, tenant)
                if tenant.config.tokens_per_min is not None:
                    body.have_answer_counted()
                serving = (await self._serving(body.model)).requests
                with nullcontext() if serving is flow else serving.place(tenant):
                    return await serving.complete(
                        request, body, request[REQUEST_ID], use, tells=access.tells
                    )

    async def models(self, request: web.Request) -> web.StreamResponse:
        """Those that the tenant may use, of all engines that are up."""
        cards = await self._cards(request)
        return json_answer({"object": "list", "data": list(cards.values())})

    async def model(self, request: web.Request) -> web.StreamResponse:
        """One of them."""
        name = request.match_info["model"]
        card = (await self._cards(request)).get(name)
        if card is None:
            raise RequestRefused(
                404, f"the model {name!r} does not exist", kind="not_found_error", param="model"
            )
        return json_answer(card)

    async def _cards(self, request: web.Request) -> dict[str, Any]:
        if not any(gateway.engines_up() for gateway in self._all):
            raise ServiceUnavailable("no engine is up")
        tenant = request[TENANT]
        allowed, cards = tenant.config.models, dict[str, Any]()
        with tenant.using():  # Of a thousand engines it takes as long as a short request.
            for gateway in reversed(self._all):
                cards |= {card["id"]: card for card in await gateway.models.cards()}
        return {n: card for n, card in cards.items() if allowed is None or n in allowed}

    async def pass_on(self, request: web.Request) -> web.StreamResponse:
        """An endpoint that any engine of the model answers the same; it counts among its tenant's
        requests."""
        flow, tenant = self._gateway.requests, request[TENANT]
        with tenant.using() as use:
            async with flow.reading(request, tenant, keeps=True) as raw:
                model = model_named_in(raw)
                tenant.check_model(model)
                own = partial(tenant_salt, self._owner(tenant) or "")
                raw = media_names.own_in(raw, own)
                return await self._ask_any(request, raw, model, use)

    async def pool(self, request: web.Request) -> web.StreamResponse:
        """What is computed in one pass; it counts among its tenant's requests and tokens."""
        flow, tenant = self._gateway.requests, request[TENANT]
        if request.path in _UNSALTED and self._owner(tenant) is not None:
            raise RequestRefused(
                400,
                f"{request.path} has no field that says whose cache an engine is to use, and "
                "tenants have caches of their own here: ask /v1/embeddings",
            )
        with tenant.using() as use:
            async with flow.reading(request, tenant, keeps=True) as raw:
                # It is read, and belongs to a tenant, as a completion is.
                body = RequestBody("/v1/completions", raw)
                self._claim(body, tenant)
                if tenant.config.tokens_per_min is not None and body.hides_pictures:
                    why = "messages embedded as bytes say nothing of their tokens, which this key "
                    raise RequestRefused(400, why + "is limited by", param="encoding_format")
                use.take_tokens(body.tokens_of_text, 0)
                answer = await self._ask_any(request, body.raw, body.model, use)
                if tenant.config.tokens_per_min is not None and isinstance(answer.body, bytes):
                    told = (await counts_in(answer.body)).prompt
                    use.told_tokens = body.tokens_beyond_text(told)
                return answer

    async def _serving(self, model: str | None) -> Gateway:
        """Whose engines serve it; of what nobody serves the first's say so. Where several say so,
        it is theirs of whom the larger part does: no machine has prompts sent to it that are for
        another deployment's."""
        if model is None or len(self._all) == 1:
            return self._gateway
        for ask in (False, True):
            found = [g for g in self._all if await g.models.knows(model, ask=ask)]
            if found:
                return max(found, key=lambda g: g.models.claim(model))
        return self._gateway

    def _claim(self, body: RequestBody, tenant: Tenant) -> None:
        """Make it the tenant's. Raises RequestRefused."""
        tenants = self._gateway.access.tenants
        tenant.check_model(body.model)
        body.whose = tenant.name
        if tenants.several:
            body.take_turns()
        if tenants.several or tenant.config.tokens_per_min is not None:
            body.have_tokens_told()
        body.belong_to(self._owner(tenant))

    def _owner(self, tenant: Tenant) -> str | None:
        """Whose caches it uses; None: they are everybody's."""
        return tenant.name if self._gateway.access.tenants.isolated else None

    async def _ask_any(
        self, request: web.Request, body: bytes, model: str | None, use: Use
    ) -> web.Response:
        """An engine's answer. What no engine has tried is refused."""
        headers = {"X-Request-Id": request[REQUEST_ID]}
        gateway = await self._serving(model)
        await gateway.models.look(model)
        serving = gateway.models.serving(model)
        failure: EngineError | None = None
        lacks, failures = False, 0
        within_s, now = self._gateway.deployment.gateway.request_deadline_s, _now()
        for engine in gateway.engines_up():
            if serving is not None and engine.name not in serving:
                continue
            place = gateway, engine.name, request.path
            if self._lacks.get(place, -math.inf) > now - _LACKS_S:
                lacks = True
                continue
            try:
                answer = await engine.pass_on(
                    request.method, request.path, body, headers,
                    within_s=within_s, whose=use.tenant.name,
                )  # fmt: skip
            except LocalFault as error:
                use.refused = not failures
                raise ServiceUnavailable(str(error)) from error
            except EngineError as error:
                failure = error
                failures += not isinstance(error, EngineUnreachable)
                if failures == _MOST_FAILURES:
                    break
                continue
            if answer.status == 404 and b'"error"' not in answer.body:
                self._lacks[place] = _now()
                lacks = True
                continue
            use.refused = 400 <= answer.status < 500
            return _passed_on(answer)
        use.refused = not failures
        if lacks and failure is None:
            raise RequestRefused(
                404, f"no engine that is up serves {request.path}", kind="not_found_error"
            )
        raise ServiceUnavailable("no engine is up" if failure is None else str(failure))


def _now() -> float:
    return asyncio.get_running_loop().time()


def _passed_on(answer: EngineAnswer) -> web.Response:
    headers = {"Content-Type": answer.content_type}
    if answer.retry_after is not None:
        headers["Retry-After"] = answer.retry_after
    return WholeAnswer(status=answer.status, body=answer.body, headers=headers)
