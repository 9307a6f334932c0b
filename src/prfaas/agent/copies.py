"""The agent's HTTP API for copies of cached prefixes: send one, and await one (`pool.copies`)."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from aiohttp import web

from prfaas.agent.driver import PoolDriver
from prfaas.agent.path_ids import transfer_id_of
from prfaas.core.cache_copies import MOST_COPY_BYTES, AwaitCopy, CopyCached
from prfaas.core.errors import UNREADABLE
from prfaas.index.keyed_prefixes import KeyedPrefixes
from prfaas.pool.events import CopyAwaited, CopyRequested
from prfaas.process.http_handler import read_body

T = TypeVar("T")


class CopyApi:
    """The handlers of ``/cache/copies``, on the event loop. ``prefixes`` learn what is awaited."""

    def __init__(self, driver: PoolDriver, prefixes: KeyedPrefixes) -> None:
        self._driver, self._prefixes = driver, prefixes

    def add_routes(self, app: web.Application) -> None:
        """Serve them."""
        app.router.add_post("/cache/copies/{id}", self.send)
        app.router.add_put("/cache/copies/{id}", self.await_one)

    async def send(self, request: web.Request) -> web.Response:
        """Begin to send what is cached of a transfer, as transfer ``id``: 202, and
        ``GET /transfers/{id}`` says how it goes. 409: it is not cached, or cannot be sent now."""
        copy_id, wanted = transfer_id_of(request), await _read(request, CopyCached)
        self._driver.handle(
            CopyRequested(
                wanted.transfer_id, copy_id, wanted.destination, wanted.deadline_s, wanted.priority
            )
        )
        sent = self._driver.transfer(copy_id, ranks=1)[0].sent
        if sent is None or sent.state == "failed":
            reason = "it was cancelled" if sent is None else sent.reason
            raise web.HTTPConflict(text=f"no copy of {wanted.transfer_id}: {reason}")
        return web.Response(status=202)

    async def await_one(self, request: web.Request) -> web.Response:
        """204: what comes as transfer ``id`` from another agent is cached, if it is of this. 409:
        it is named under another cache key."""
        copy_id, awaited = transfer_id_of(request), await _read(request, AwaitCopy)
        fault = awaited.prefix.fault()
        if fault is not None:
            raise web.HTTPBadRequest(text=fault)
        if awaited.key_id not in ("", self._prefixes.key_id):
            raise web.HTTPConflict(
                text="its names are made with another cache key than this agent's"
            )
        self._prefixes.learn(awaited.prefix)
        self._driver.handle(CopyAwaited(copy_id, awaited.prefix, awaited.deadline_s))
        return web.Response(status=204)


async def _read(request: web.Request, kind: type[T]) -> T:
    """A body may be longer here than elsewhere: a long prefix's names and tokens."""
    body = await read_body(request, most=MOST_COPY_BYTES)
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except UNREADABLE as error:
        raise web.HTTPBadRequest(text=f"not what this request carries: {error}") from error
