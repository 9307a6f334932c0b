"""Runs a gateway's HTTP front until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import resource
from pathlib import Path
from typing import NoReturn

from prfaas.core.deployment import Deployment
from prfaas.gateway.endpoints import Endpoints
from prfaas.gateway.gateway import Gateway
from prfaas.gateway.http import make_app
from prfaas.process.http_server import serving

logger = logging.getLogger(__name__)

_SHUTDOWN_S = 5.0
_FILES_PER_REQUEST = 3
"""Sockets: the client's, the decode engine's; while a prompt is handed over the client's, the
prefill engine's, the agent's."""
_FILES_BESIDE = 100
"""For the log, health checks, KV events."""


async def serve(
    deployment: Deployment, endpoints: Endpoints, *, journal_file: Path | None = None
) -> NoReturn:
    """Serve until cancelled. Raises ConfigError if the address cannot be bound."""
    allow_open_files(deployment.gateway.max_inflight_requests)
    gateway = Gateway(deployment, endpoints, journal_file=journal_file)
    await gateway.start()
    try:
        async with serving(
            make_app(gateway),
            deployment.gateway.listen,
            what="gateway.listen",
            shutdown_timeout_s=_SHUTDOWN_S,
        ) as url:
            logger.info("listening on %s", url)
            try:
                await asyncio.Event().wait()
                raise AssertionError("nobody sets the event")
            finally:
                logger.info("stopping")
    finally:
        await gateway.close()


def allow_open_files(max_inflight_requests: int) -> None:
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
