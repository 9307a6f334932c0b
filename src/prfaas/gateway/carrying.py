"""The way through agents, for those that speak to engines with aiohttp."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

from prfaas.core.addresses import Address
from prfaas.core.errors import PeerError
from prfaas.gateway.tunnel import open_tunnel
from prfaas.tls.context import PeerContext, check_server


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
