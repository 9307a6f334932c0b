"""HTTP to engines and agents over kept connections, which may have gone stale.

Theory of operation. A server closes connections that were idle, or all of them when it restarts.
The client learns of it only when it uses one. Such a request was never looked at, so it is sent
again over a connection made for it; one that fails on a new connection is not. And where this
process itself has run out of something (descriptors, ports), the request waits a little: it is
nobody else's fault, and others give back what is missing as they end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import aiohttp

from prfaas.gateway.upstream_errors import is_local, is_lost

_KEEPALIVE_S = 3.0
"""vLLM's server closes a connection that was idle for 5 s: one used just then would be lost, and
its request with it."""
_LOCAL_PATIENCE_S = 5.0
"""How long a request waits for what this process has run out of."""
_FIRST_PAUSE_S = 0.05


class HttpClient:
    """Requests on the running event loop; `close` ends all connections."""

    def __init__(self) -> None:
        tracing = aiohttp.TraceConfig()
        tracing.on_connection_reuseconn.append(_note_reuse)
        self._kept = _session(keepalive_timeout=_KEEPALIVE_S, tracing=[tracing])
        self._fresh = _session(force_close=True, tracing=[])

    async def request(
        self,
        method: str,
        url: str,
        *,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        """Send, and return when the response's head is here; use it as a context manager or close
        it. Raises one of `CONNECTION_ERRORS`."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + _LOCAL_PATIENCE_S
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return await self._send(method, url, data=data, headers=headers, timeout=timeout)
            except OSError as error:
                if not is_local(error) or loop.time() + pause_s > give_up_at:
                    raise
            await asyncio.sleep(pause_s)
            pause_s *= 2

    async def close(self) -> None:
        """End all connections."""
        await self._kept.close()
        await self._fresh.close()

    async def _send(self, method: str, url: str, **options: Any) -> aiohttp.ClientResponse:
        connection = SimpleNamespace(reused=False)
        try:
            return await self._kept.request(method, url, trace_request_ctx=connection, **options)
        except (aiohttp.ClientError, OSError) as error:
            if not connection.reused or not is_lost(error):
                raise
            lost = error
        try:
            return await self._fresh.request(method, url, **options)
        except aiohttp.ClientConnectorError as error:
            if is_local(error):
                raise
            raise lost from error  # Nobody is there any more: it may have died of the request.


async def _note_reuse(
    _session: aiohttp.ClientSession,
    context: SimpleNamespace,
    _params: aiohttp.TraceConnectionReuseconnParams,
) -> None:
    context.trace_request_ctx.reused = True


def _session(*, tracing: list[aiohttp.TraceConfig], **pool: Any) -> aiohttp.ClientSession:
    """One that neither decompresses nor asks for compression: bodies are passed on as they are."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, **pool),
        auto_decompress=False,
        skip_auto_headers=["Accept-Encoding"],
        trace_configs=tracing,
    )
