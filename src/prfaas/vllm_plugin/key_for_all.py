"""An engine's key guards all of its HTTP.

vLLM asks for its ``--api-key`` under some prefixes of paths alone. At others (``/invocations``,
``/generative_scoring``, ``/tokenize``) it answers whoever comes: they generate at its cost, and
read from ``cached_tokens`` which prompts it was asked before. ``--middleware`` of this module asks
for the key everywhere, but where nothing is said of prompts. The API server's process imports it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

_VARIABLE = "VLLM_API_KEY"
_OPEN = frozenset({"/health", "/metrics", "/version", "/load", "/kv_event_sources"})
_REFUSAL = b'{"error":"Unauthorized"}'
_Message = MutableMapping[str, Any]
_App = Callable[
    [_Message, Callable[[], Awaitable[_Message]], Callable[[_Message], Awaitable[None]]],
    Awaitable[None],
]


class KeyForAll:
    """ASGI middleware. Raises RuntimeError where the environment has no key."""

    def __init__(self, app: _App) -> None:
        key = os.environ.get(_VARIABLE)
        if not key:
            raise RuntimeError(f"{_VARIABLE} is not set: there is no key to ask for")
        self._app, self._digest = app, _digest(key.encode())

    async def __call__(
        self,
        scope: _Message,
        receive: Callable[[], Awaitable[_Message]],
        send: Callable[[_Message], Awaitable[None]],
    ) -> None:
        """Ask, or pass on."""
        if scope["type"] == "lifespan" or _is_open(scope) or self._may(scope["headers"]):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(_REFUSAL)).encode()),
            ]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": _REFUSAL})
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _may(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        given = [value for name, value in headers if name.lower() == b"authorization"]
        scheme, _, key = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        return scheme.lower() == b"bearer" and hmac.compare_digest(_digest(key), self._digest)


def _is_open(scope: _Message) -> bool:
    """What says nothing of prompts, and what browsers ask before they ask."""
    if scope["type"] != "http":
        return False
    # Servers put what they are behind (`--root-path`) before what was asked for.
    method, path = scope["method"], scope["path"].removeprefix(scope.get("root_path", ""))
    return method == "OPTIONS" or (method in ("GET", "HEAD") and path in _OPEN)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
