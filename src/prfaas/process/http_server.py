"""An aiohttp application at an address of the deployment file, for as long as a block lasts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from prfaas.core.addresses import Address, parse_address
from prfaas.core.errors import ConfigError


@asynccontextmanager
async def serving(
    app: web.Application, listen: str, *, what: str, shutdown_timeout_s: float
) -> AsyncIterator[str]:
    """Serve ``app`` at ``listen`` (``host:port``, port 0: a free one); yields its URL.

    A handler is cancelled when its client goes away. On leaving, requests under way have
    ``shutdown_timeout_s`` to end. Raises ConfigError for an address that is none or cannot be had;
    ``what`` names its setting.
    """
    host, port = parse_address(listen, what=what)
    runner = web.AppRunner(
        app, access_log=None, handler_cancellation=True, shutdown_timeout=shutdown_timeout_s
    )
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise ConfigError(
                f"{what} {listen}: cannot listen there: {error.strerror or error}"
            ) from error
        yield f"http://{Address(*runner.addresses[0][:2])}"
    finally:
        await runner.cleanup()
