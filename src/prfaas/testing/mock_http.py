"""A small HTTP server of the test kit: real sockets, no real work."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable

from aiohttp import web

from prfaas.core.addresses import Address
from prfaas.testing.closing import close


class MockServer:
    """An aiohttp application on a free local port; `stop` kills its open connections too.

    ``reset_kept``: connections that have served a request before are reset at the next one, as by a
    server that has just closed them. ``api_key``: what vLLM's ``--api-key`` asks for.
    """

    def __init__(self) -> None:
        self.url = ""
        self.host = "127.0.0.1"
        self.reset_kept = False
        self.api_key: str | None = None
        self.tls: ssl.SSLContext | None = None
        self.connections: set[asyncio.BaseTransport] = set()
        self._runner: web.AppRunner | None = None
        self._listening: asyncio.Server | None = None
        self.port = 0
        """Of ``host``, to listen on; 0: any that is free."""

    def routes(self) -> list[web.RouteDef]:
        """What it serves."""
        raise NotImplementedError

    async def start(self) -> None:
        """Listen; after `stop`, on the same port again."""
        app = web.Application(client_max_size=1 << 30, middlewares=[self._note_connection])
        app.add_routes(self.routes())
        self._runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1
        )
        await self._runner.setup()
        assert self._runner.server is not None
        self._listening = await asyncio.get_running_loop().create_server(
            self._runner.server, self.host, self.port, ssl=self.tls
        )
        self.port = self._listening.sockets[0].getsockname()[1]
        self.url = f"{'https' if self.tls else 'http'}://{Address(self.host, self.port)}"

    async def stop_listening(self) -> None:
        """As a server does that shuts down: what is under way goes on."""
        if self._listening is not None:
            await close(self._listening)
            self._listening = None

    async def stop(self) -> None:
        """Die as a killed process does: every connection is reset."""
        await self.stop_listening()
        self.connections.clear()
        if self._runner is not None:
            assert self._runner.server is not None
            for known in self._runner.server.connections:
                if known.transport is not None:
                    known.transport.abort()
            await self._runner.cleanup()
            self._runner = None

    @web.middleware
    async def _note_connection(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if request.transport is not None:
            if self.reset_kept and request.transport in self.connections:
                request.transport.abort()
                await asyncio.Event().wait()  # It is never looked at.
            self.connections.add(request.transport)
        wanted = None if self.api_key is None else f"Bearer {self.api_key}"
        given = request.headers.get("Authorization")
        if wanted is not None and request.path.startswith("/v1") and given != wanted:
            return web.json_response({"error": "Unauthorized"}, status=401)
        return await handler(request)
