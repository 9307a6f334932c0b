"""HTTP to engines and agents over kept connections, which may have gone stale.

Theory of operation. A server closes connections that were idle, or all of them when it restarts.
The client learns of it only when it uses one. Such a request was never looked at, so it is sent
again over a connection made for it; one that fails on a new connection is not. And where this
process itself has run out of something (descriptors, ports), the request waits a little: it is
nobody else's fault, and others give back what is missing as they end.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

from prfaas.core.addresses import Address
from prfaas.core.errors import PeerError
from prfaas.gateway.tunnel import open_tunnel
from prfaas.gateway.upstream_errors import is_local, is_lost
from prfaas.tls.context import PeerContext, check_server

ENGINE_KEEPALIVE_S, AGENT_KEEPALIVE_S = 3.0, 60.0
"""vLLM's server closes a connection that was idle for 5 s: one used just then would be lost, and
its request with it. An agent's waits for 75 s."""
_LOCAL_PATIENCE_S = 5.0
"""How long a request waits for what this process has run out of."""
_FIRST_PAUSE_S = 0.05
_MADE: ContextVar[list[bool]] = ContextVar("connections made for this request")


class HttpClient:
    """Requests on the running event loop; `close` ends all connections. ``keepalive_s``: how long
    one is kept that is not used."""

    def __init__(self, keepalive_s: float = ENGINE_KEEPALIVE_S) -> None:
        self._kept = _session(_Connector(limit=0, keepalive_timeout=keepalive_s))
        self._fresh = _session(CarryingConnector(limit=0, force_close=True))

    async def request(
        self,
        method: str,
        url: str,
        *,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: aiohttp.ClientTimeout,
        tls: ssl.SSLContext | None = None,
    ) -> aiohttp.ClientResponse:
        """Send, and return when the response's head is here; use it as a context manager or close
        it; ``tls``: what is trusted, None: what this machine trusts; see `Credentials`. Raises one
        of `CONNECTION_ERRORS`."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + _LOCAL_PATIENCE_S
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                answer = await self._send(
                    method, url, data=data, headers=headers, timeout=timeout, ssl=tls or True
                )
            except OSError as error:
                if not is_local(error) or loop.time() + pause_s > give_up_at:
                    raise
            else:
                return _of_today(answer)
            await asyncio.sleep(pause_s)
            pause_s *= 2

    async def close(self) -> None:
        """End all connections."""
        await self._kept.close()
        await self._fresh.close()

    async def _send(self, method: str, url: str, **options: Any) -> aiohttp.ClientResponse:
        made_now: list[bool] = []
        made = _MADE.set(made_now)
        try:
            return await self._kept.request(method, url, **options)
        except (aiohttp.ClientError, OSError) as error:
            if made_now or not is_lost(error):
                raise
            lost = error
        finally:
            _MADE.reset(made)
        try:
            return await self._fresh.request(method, url, **options)
        except aiohttp.ClientConnectorError as error:
            if is_local(error):
                raise
            raise lost from error  # Nobody is there any more: it may have died of the request.


class _Connector(aiohttp.TCPConnector):
    """Says which requests had a connection made for them."""

    async def _create_connection(self, req: Any, traces: Any, timeout: Any) -> Any:
        _MADE.get().append(True)
        if (carried := await _carried(self._factory, req)) is not None:
            return carried
        return _checked(await super()._create_connection(req, traces, timeout), req.ssl)


class CarryingConnector(aiohttp.TCPConnector):
    """Goes through an agent where a request is given its `PeerContext` and an ``http`` url."""

    async def _create_connection(self, req: Any, traces: Any, timeout: Any) -> Any:
        if (carried := await _carried(self._factory, req)) is not None:
            return carried
        return _checked(await super()._create_connection(req, traces, timeout), req.ssl)


async def _carried(factory: Callable[[], ResponseHandler], req: Any) -> ResponseHandler | None:
    """A connection through the agent that carries the engine; None where none does. Raises
    ClientConnectorError."""
    if not isinstance(req.ssl, PeerContext) or req.is_ssl():
        return None
    try:
        made = await open_tunnel(factory, req.ssl, Address(req.url.host, req.url.port))
    except OSError as error:
        raise aiohttp.ClientConnectorError(req.connection_key, error) from error
    return made[1]


def _checked(made: Any, context: object) -> Any:
    """The connection, unless another than the agent that it is for is at its other end: raises
    PeerError."""
    if isinstance(context, PeerContext):
        try:
            check_server(context, made.transport)
        except PeerError:
            made.transport.abort()
            raise
    return made


def _of_today(answer: aiohttp.ClientResponse) -> aiohttp.ClientResponse:
    """The response, unless whoever sent it does not speak HTTP/1: what follows such a head may be
    anything. Raises ClientResponseError."""
    if answer.version is not None and answer.version < aiohttp.HttpVersion10:
        answer.close()
        raise aiohttp.ClientResponseError(
            answer.request_info,
            answer.history,
            status=answer.status,
            message=f"the answer is HTTP/{answer.version.major}.{answer.version.minor}",
        )
    return answer


def _session(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    """One that neither decompresses nor asks for compression: bodies are passed on as they are."""
    return aiohttp.ClientSession(
        connector=connector, auto_decompress=False, skip_auto_headers=["Accept-Encoding"]
    )
