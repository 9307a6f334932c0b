"""Runs a gateway's HTTP front until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import NamedTuple, NoReturn

from prfaas.core.deployment import Deployment
from prfaas.gateway.endpoints import Endpoints
from prfaas.gateway.gateway import Gateway
from prfaas.gateway.http import make_admin_app, make_app
from prfaas.gateway.tracing import NO_TRACING, Tracing
from prfaas.process.descriptors import allow_all_files
from prfaas.process.front_door import serving_strangers
from prfaas.process.reloading import Reloading
from prfaas.scheduler.journal import CostInputs

logger = logging.getLogger(__name__)

_SHUTDOWN_S = 5.0
_FILES_PER_REQUEST = 3
"""Sockets: the client's, the decode engine's; while a prompt is handed over the client's, the
prefill engine's, the agent's."""
_GARBAGE_OBJECTS = 10_000
"""More objects than before are made before garbage is looked for."""
_FILES_BESIDE = 100
"""For the log, health checks, KV events."""


class Service(NamedTuple):
    """A gateway that is to be served. The files and ``seeds`` are those of `Gateway`; ``reloading``
    makes what watches the deployment file."""

    deployment: Deployment
    endpoints: Endpoints
    journal_file: Path | None = None
    learned_file: Path | None = None
    seeds: CostInputs | None = None
    reloading: Callable[[Gateway], Reloading] | None = None


async def serve(
    first: Service,
    *also: Service,
    hurry: asyncio.Event | None = None,
    tracing: Tracing = NO_TRACING,
    shared: bool = False,
) -> NoReturn:
    """Serve until cancelled; then let answers under way end for ``gateway.drain``, or until
    ``hurry`` is set. The first answers for the models of the others ``also``; each is served where
    its own file says. ``shared``: other workers listen there as well. Raises ConfigError if an
    address cannot be bound."""
    services = (first, *also)
    allow_open_files(sum(s.deployment.gateway.max_inflight_requests for s in services))
    gateways = [_made(service) for service in services]
    async with AsyncExitStack() as stack:
        stack.push_async_callback(asyncio.to_thread, tracing.close)
        for gateway, service in zip(gateways, services, strict=True):
            await gateway.start()
            stack.push_async_callback(gateway.close)
            gateway.requests.tracing = tracing
            if service.reloading is not None:
                gateway.run_beside("deployment_file", service.reloading(gateway).run)
        stack.enter_context(_collecting_seldom())
        for gateway in reversed(gateways):
            others = gateways[1:] if gateway is gateways[0] else []
            url = await stack.enter_async_context(_served(gateway, others, shared=shared))
            logger.info("listening on %s", url)
        try:
            await asyncio.Event().wait()
            raise AssertionError("nobody sets the event")
        finally:
            under_way = sum(gateway.requests.inflight for gateway in gateways)
            logger.info("stopping, %d requests are under way", under_way)
            within = hurry or asyncio.Event()
            await asyncio.gather(*(gateway.stop_serving(within) for gateway in gateways))


def _made(service: Service) -> Gateway:
    return Gateway(
        service.deployment,
        service.endpoints,
        journal_file=service.journal_file,
        learned_file=service.learned_file,
        seeds=service.seeds,
    )


@asynccontextmanager
async def _served(gateway: Gateway, also: Sequence[Gateway], *, shared: bool) -> AsyncIterator[str]:
    """Its address, and that for operators where it has one."""
    config = gateway.deployment.gateway
    tls, admin_tls = gateway.access.tls, gateway.access.admin_tls
    async with AsyncExitStack() as stack:
        if config.admin is not None:
            url = await stack.enter_async_context(
                serving_strangers(
                    make_admin_app(gateway),
                    config.admin,
                    what="gateway.admin",
                    shutdown_timeout_s=_SHUTDOWN_S,
                    tls=None if admin_tls is None else lambda: admin_tls.context,
                )
            )
            logger.info("operators are served at %s", url)
        yield await stack.enter_async_context(
            serving_strangers(
                make_app(gateway, also),
                config.listen,
                what="gateway.listen",
                shutdown_timeout_s=_SHUTDOWN_S,
                tls=None if tls is None else lambda: tls.context,
                book=gateway.access.connections,
                shared=shared,
            )
        )


@contextmanager
def _collecting_seldom() -> Iterator[None]:
    """A request leaves nothing that points in circles: to look at all that is under way for every
    700 new objects was a tenth of a short request's time."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE_OBJECTS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def allow_open_files(max_inflight_requests: int) -> None:
    """As many as this process may have; say so where they are too few."""
    hard = allow_all_files()
    wanted = max_inflight_requests * _FILES_PER_REQUEST + _FILES_BESIDE
    if hard < wanted:
        logger.warning(
            "%d open files are allowed (ulimit -n), %d requests at once may need %d: raise the "
            "limit or lower gateway.max_inflight_requests",
            hard,
            max_inflight_requests,
            wanted,
        )
