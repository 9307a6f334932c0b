"""Which web pages of other origins may ask this gateway from a browser."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from aiohttp import web

_METHODS = "GET, POST, OPTIONS"
_HEADER_NAMES = re.compile(r"[A-Za-z0-9_-]{1,64}(\s*,\s*[A-Za-z0-9_-]{1,64}){0,63}")
"""What a page may ask leave to send: clients in a browser have headers of their own, which name
their version and platform."""
_EXPOSED = "X-Request-Id, Retry-After"
_MAX_AGE_S = "600"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Cors:
    """A middleware, outermost. Without origins it adds nothing: browsers then refuse."""

    def __init__(self, origins: Callable[[], tuple[str, ...]]) -> None:
        self._origins = origins

    def add_to(self, app: web.Application) -> None:
        """Answer preflights, and name the origin in answers, streams included."""
        app.middlewares.insert(0, self._preflights)
        app.on_response_prepare.append(self._name_origin)

    @web.middleware
    async def _preflights(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        asks = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
        if not asks or self._allowed(request) is None:
            return await handler(request)
        headers = {
            "Access-Control-Allow-Methods": _METHODS,
            "Access-Control-Max-Age": _MAX_AGE_S,
        }
        asked = request.headers.get("Access-Control-Request-Headers", "").strip()
        if _HEADER_NAMES.fullmatch(asked):
            headers["Access-Control-Allow-Headers"] = asked
        return web.Response(status=204, headers=headers)

    async def _name_origin(self, request: web.Request, response: web.StreamResponse) -> None:
        if self._origins():
            response.headers["Vary"] = "Origin"
        origin = self._allowed(request)
        if origin is not None:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = _EXPOSED

    def _allowed(self, request: web.Request) -> str | None:
        """What to say of the request's origin; None where its page may not ask."""
        origins, given = self._origins(), request.headers.get("Origin")
        if given is None:
            return None
        if "*" in origins:
            return "*"
        return given if given in origins else None
