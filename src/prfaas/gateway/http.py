"""The HTTP front: routes, keys, limits, error bodies, request ids."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec
from aiohttp import HttpVersion10, web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from prfaas.core.readiness import Readiness
from prfaas.core.units import parse_bytes
from prfaas.gateway.api_errors import (
    ApiError,
    GatewayBug,
    RequestRefused,
)
from prfaas.gateway.cache_api import CacheApi
from prfaas.gateway.client_api import REQUEST_ID, ClientApi
from prfaas.gateway.client_response import REFUSED
from prfaas.gateway.cors import Cors
from prfaas.gateway.dialects import dialect_of
from prfaas.gateway.gateway import Gateway
from prfaas.gateway.keys import key_shown
from prfaas.gateway.operating import Operating
from prfaas.gateway.page import GatewayPage
from prfaas.gateway.targets import Targets
from prfaas.gateway.whole_answer import TENANT, json_answer
from prfaas.page.server import is_page
from prfaas.process.http_handler import admit, answered, in_pieces
from prfaas.process.sparing import Sparing

logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
T = TypeVar("T")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:+/=@-]{1,128}")
_OPEN_PATHS = frozenset({"/health", "/ready", "/metrics"})
_OPERATORS_PATHS = frozenset(
    {"/drain", "/targets", "/cache", "/cache/query", "/cache/warm", "/cache/pin", "/cache/unpin"}
)


def make_app(gateway: Gateway, also: Sequence[Gateway] = ()) -> web.Application:
    """The application; serve it with ``handler_cancellation=True`` or disconnects go unseen.
    ``also``: see `ClientApi`."""
    logging.getLogger("aiohttp.server").addFilter(_NO_HTTP)
    config = gateway.deployment.gateway
    front = _Front(gateway)
    app = web.Application(
        client_max_size=parse_bytes(config.max_body), middlewares=[front.answer_or_explain]
    )
    Cors(lambda: gateway.deployment.gateway.cors_origins).add_to(app)
    ClientApi(gateway, also).add_routes(app)
    app.router.add_get("/health", front.health)
    if config.admin is None:
        _add_admin(app, gateway, front)
    return app


def make_admin_app(gateway: Gateway) -> web.Application:
    """What operators and Prometheus ask, for an address of its own."""
    front = _Front(gateway)
    # Prompts that are to be warmed or pinned are as long as clients'.
    most = parse_bytes(gateway.deployment.gateway.max_body)
    app = web.Application(client_max_size=most, middlewares=[front.answer_or_explain])
    app.router.add_get("/health", front.health)
    _add_admin(app, gateway, front)
    return app


def _add_admin(app: web.Application, gateway: Gateway, front: _Front) -> None:
    app.router.add_get("/ready", front.ready)
    app.router.add_get("/metrics", front.metrics)
    app.router.add_get("/requests", front.requests)
    Operating(gateway.drains, gateway.access).add_routes(app)
    Targets(lambda: gateway.deployment, gateway.access).add_routes(app)
    GatewayPage(gateway).add_routes(app)
    CacheApi(
        gateway.requests,
        gateway.pools,
        lambda: gateway.index.blocks,
        gateway.access,
        lambda: gateway.agents,
    ).add_routes(app)


class _WithoutTraceback(logging.Filter):
    """What is no HTTP gets a 400; it is not our failure, and not news to an operator."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Leave such messages out; all others stay."""
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, HttpProcessingError)


_NO_HTTP = _WithoutTraceback()


class _Front:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._ready = Sparing(self._readiness)
        self._metrics = Sparing(self._exposition)

    @web.middleware
    async def answer_or_explain(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Give every request an id, check its key, turn every failure into an error of the
        API that was asked."""
        given = request.headers.get("X-Request-Id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
        request[REQUEST_ID] = request_id
        try:
            if request.version < HttpVersion10:
                raise RequestRefused(400, "write HTTP/1.1 at the end of the request line")
            self._admit(request)
            response = await handler(request)
            if (told := request.get(REFUSED)) is not None:
                self._note(told, request)
        except ApiError as error:
            self._note(error, request)
            response = _error(error, request)
        except web.HTTPException as error:
            response = _error(_http_error(error, request), request)
        except web.RequestPayloadError:
            response = _unreadable(request)
        except Exception:
            logger.exception(
                "request %s: internal error", request_id, extra={"request_id": request_id}
            )
            response = _error(GatewayBug(), request)
        finally:
            answered(request)
        if not response.prepared:
            response.headers.setdefault("X-Request-Id", request_id)
        return response

    def _note(self, error: ApiError, request: web.Request) -> None:
        tenant, request_id = request.get(TENANT), request[REQUEST_ID]
        self._gateway.access.refusals.note(
            error, request, tenant=tenant and tenant.name, request_id=request_id
        )

    def _admit(self, request: web.Request) -> None:
        """Say whose request it is. Raises RequestRefused where nobody's may be."""
        access, path = self._gateway.access, request.path
        if path == "/metrics" and access.tenants.several:
            # How much of all prompts was cached tells each of what others ask.
            access.check_operator(request)
        elif path == "/requests" and access.is_operator(request):
            pass
        elif is_page(path):
            pass  # What tells something asks for an operator's key itself.
        elif path not in _OPEN_PATHS | _OPERATORS_PATHS:
            tenant = request[TENANT] = access.tenants.find(key_shown(request))
            admit(request, tenant.name)
            return
        if access.is_operator(request):  # Or what takes long is ended as a stranger's.
            admit(request)

    async def health(self, _request: web.Request) -> web.Response:
        """The process lives."""
        return web.Response()

    async def ready(self, request: web.Request) -> web.StreamResponse:
        """Whether requests should be sent here, else why not; and what is amiss all the same."""
        status, body = self._made(request, self._ready)
        return await in_pieces(request, body, "application/json", status=status)

    def _readiness(self) -> tuple[int, bytes]:
        gateway, troubles = self._gateway, self._gateway.troubles()
        warnings = [
            *gateway.fleet.warnings(),
            *gateway.lines.warnings(),
            *gateway.models.warnings(),
        ]
        warnings = [each for each in warnings if each not in troubles]
        body = Readiness(not troubles, troubles, warnings)
        return 503 if troubles else 200, msgspec.json.encode(body)

    def _made(self, request: web.Request, what: Sparing[T]) -> T:
        """As it is now for operators; others, who are not known, take no more of the time."""
        return what.anew() if self._gateway.access.is_operator(request) else what()

    async def requests(self, request: web.Request) -> web.StreamResponse:
        """The last requests that ended, with their decisions: all for an operator, a tenant's own
        where they say nothing of others'."""
        recent, tenant = list(self._gateway.requests.recent), request.get(TENANT)
        if tenant is not None:
            if not self._gateway.access.tells:
                self._gateway.access.check_operator(request)
            with tenant.using():  # Each may name a thousand engines.
                recent = [facts for facts in recent if facts.tenant == tenant.name]
        return json_answer({"requests": recent})

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        """What Prometheus reads."""
        return await in_pieces(request, self._made(request, self._metrics), CONTENT_TYPE_LATEST)

    def _exposition(self) -> bytes:
        self._gateway.update_metrics()
        return generate_latest(self._gateway.metrics.registry)


def _error(error: ApiError, request: web.Request) -> web.Response:
    dialect = dialect_of(request.path)
    return web.Response(
        status=error.status,
        body=dialect.error_body(error.status, error.kind, str(error), error.param),
        headers={"Content-Type": "application/json", **error.headers},
    )


def _unreadable(request: web.Request) -> web.Response:
    request.content.feed_eof()  # Or aiohttp reads on, and logs a traceback.
    response = _error(
        RequestRefused(400, "the body is not chunked or compressed as its headers say"), request
    )
    response.force_close()
    return response


def _http_error(error: web.HTTPException, request: web.Request) -> RequestRefused:
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return RequestRefused(413, f"the body is larger than {request.client_max_size} bytes")
    if error.status == 404:
        return RequestRefused(404, f"there is no {request.path} here", kind="not_found_error")
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return RequestRefused(405, f"{request.path} takes {allowed}, not {request.method}")
    return RequestRefused(error.status, error.reason or "bad request")
