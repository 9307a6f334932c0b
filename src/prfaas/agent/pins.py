"""The agent's HTTP API for what is to stay cached (`pool.pins`)."""

from __future__ import annotations

from aiohttp import web

from prfaas.agent.driver import PoolDriver
from prfaas.agent.path_ids import transfer_id_of
from prfaas.core.errors import CapacityError
from prfaas.pool.events import PrefixPinned, PrefixUnpinned


class PinApi:
    """The handlers of ``/cache/pins``, on the event loop."""

    def __init__(self, driver: PoolDriver) -> None:
        self._driver = driver

    def add_routes(self, app: web.Application) -> None:
        """Serve them."""
        app.router.add_put("/cache/pins/{id}", self.pin)
        app.router.add_delete("/cache/pins/{id}", self.unpin)

    async def pin(self, request: web.Request) -> web.Response:
        """204: what is cached of transfer ``id`` stays, with all that it stands on, until it is
        unpinned or the agent ends. 409: it is not cached, or no more may be pinned."""
        try:
            self._driver.handle(PrefixPinned(transfer_id_of(request)))
        except CapacityError as error:
            raise web.HTTPConflict(text=str(error)) from error
        return web.Response(status=204)

    async def unpin(self, request: web.Request) -> web.Response:
        """204: it is evicted as others are."""
        self._driver.handle(PrefixUnpinned(transfer_id_of(request)))
        return web.Response(status=204)
