"""Runs a gateway's HTTP front until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
from pathlib import Path

from aiohttp import web

from prfaas.core.deployment import Deployment
from prfaas.core.errors import ConfigError
from prfaas.gateway.endpoints import Endpoints, parse_listen
from prfaas.gateway.gateway import Gateway
from prfaas.gateway.http import make_app

logger = logging.getLogger(__name__)

_SHUTDOWN_S = 5.0
_FILES_PER_REQUEST = 3
"""Sockets: the client's, the decode engine's; while a prompt is handed over the client's, the
prefill engine's, the agent's."""
_FILES_BESIDE = 100
"""For the log, health checks, KV events."""


async def serve(
    deployment: Deployment, endpoints: Endpoints, *, journal_file: Path | None = None
) -> None:
    """Serve until SIGINT or SIGTERM. Raises ConfigError if the address cannot be bound."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signal_number, stopped.set)
    _allow_open_files(deployment.gateway.max_inflight_requests)
    gateway = Gateway(deployment, endpoints, journal_file=journal_file)
    await gateway.start()
    runner = web.AppRunner(
        make_app(gateway),
        handler_cancellation=True,
        access_log=None,
        shutdown_timeout=_SHUTDOWN_S,
    )
    try:
        await runner.setup()
        await _listen(runner, deployment.gateway.listen)
        await stopped.wait()
        logger.info("stopping")
    finally:
        await runner.cleanup()
        await gateway.close()


def _allow_open_files(max_inflight_requests: int) -> None:
    """As many as this process may have; say so where they are too few."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    wanted = max_inflight_requests * _FILES_PER_REQUEST + _FILES_BESIDE
    if hard < wanted:
        logger.warning(
            "%d open files are allowed (ulimit -n), %d requests at once may need %d: raise the "
            "limit or lower gateway.max_inflight_requests",
            hard,
            max_inflight_requests,
            wanted,
        )


async def _listen(runner: web.AppRunner, listen: str) -> None:
    host, port = parse_listen(listen)
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        raise ConfigError(f"gateway.listen {listen}: {error.strerror or error}") from error
    host, port = runner.addresses[0][:2]
    logger.info("listening on http://%s:%d", host, port)
