"""The operator's part of the HTTP front: taking engines out of service and back."""

from __future__ import annotations

import msgspec
from aiohttp import web

from prfaas.core.errors import UNREADABLE, CallerError
from prfaas.gateway.access import Access
from prfaas.gateway.api_errors import RequestRefused
from prfaas.gateway.drains import Drain, Drains
from prfaas.gateway.whole_answer import json_answer
from prfaas.process.http_handler import read_body

_ORDER_BYTES = 64 * 1024


class DrainOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /drain``. ``target``: the name of an engine, machine or cluster."""

    target: str
    undo: bool = False
    reason: str = "an operator asked for it"


class DrainReport(msgspec.Struct, frozen=True):
    """What ``/drain`` answers. ``drains``: the engines of the order, or all that are out of
    service; ``undone``: engines that serve again."""

    drains: list[Drain]
    undone: list[str] = []


class Operating:
    """Handlers of ``/drain``; both ask for an operator's key where there are some."""

    def __init__(self, drains: Drains, access: Access) -> None:
        self._drains = drains
        self._access = access

    def add_routes(self, app: web.Application) -> None:
        """Serve them."""
        app.router.add_get("/drain", self.show)
        app.router.add_post("/drain", self.order)

    async def show(self, request: web.Request) -> web.Response:
        """All engines that are out of service, with what they still have."""
        self._access.check_operator(request)
        return json_answer(DrainReport(self._drains.rows()))

    async def order(self, request: web.Request) -> web.Response:
        """Drain, or put back into service."""
        self._access.check_operator(request)
        try:
            order = msgspec.json.decode(
                await read_body(request, most=_ORDER_BYTES), type=DrainOrder
            )
        except UNREADABLE as error:
            example = '{"target": "ENGINE|MACHINE|CLUSTER", "undo": false}'
            raise RequestRefused(400, f"{error}; send {example}") from error
        try:
            if order.undo:
                return json_answer(DrainReport([], self._drains.end(order.target)))
            return json_answer(DrainReport(self._drains.begin(order.target, reason=order.reason)))
        except CallerError as error:
            raise RequestRefused(404, str(error), kind="not_found_error") from error
