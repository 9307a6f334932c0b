"""A whole answer on its way to its client: what has not been read of it is held here.

An answer may have hundreds of megabytes (embeddings of every token, the logprobs of a prompt), and
its client may read nothing for minutes. So it goes out in pieces, and all such answers together
have a bound, as have their connections; beyond it whoever has most to read is cut off, of the
tenant that has most. An answer is held as a whole until the last of it has gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import msgspec
from aiohttp import web

from prfaas.gateway.room import Room
from prfaas.gateway.tenants import Tenant
from prfaas.process.descriptors import share_of_files
from prfaas.process.http_handler import admit, answered

_PIECE_BYTES = 64 * 1024
_MOST_BYTES, _MOST_UNREAD = 1 << 30, 2048
_SHARE_OF_FILES = 8
"""So many bytes, of so many answers, on this part of all descriptors at most."""
TENANT = web.RequestKey("tenant", Tenant)
UNREAD = Room(_MOST_BYTES)
"""Of this process, whichever of its gateways answers: it is its memory that is short."""


class WholeAnswer(web.Response):
    """An answer that is complete, with its length in its head."""

    ended = False
    whose = ""
    left = 0

    def __init__(self, *, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        super().__init__(status=status, body=body, headers=headers)
        self._transport: asyncio.BaseTransport | None = None

    async def write_eof(self, data: bytes = b"") -> None:
        """See `web.Response`."""
        body, request = self.body, self._req
        small = not isinstance(body, bytes) or len(body) <= _PIECE_BYTES
        if small or request is None or request.method == "HEAD":
            await super().write_eof(data)
            return
        assert isinstance(body, bytes)
        self._transport = request.transport
        if isinstance(request, web.Request):
            tenant = request.get(TENANT)
            self.whose = "" if tenant is None else tenant.name
            admit(request, self.whose)  # It is not over: it may take as long as its client reads.
        # However small it is, it holds a descriptor.
        connection = _MOST_BYTES // share_of_files(_SHARE_OF_FILES, most=_MOST_UNREAD)
        self.left = len(body)
        UNREAD.take(self, self.left + connection)
        try:
            for start in range(0, len(body), _PIECE_BYTES):
                await self.write(memoryview(body)[start : start + _PIECE_BYTES])
                self.left -= _PIECE_BYTES
            await web.StreamResponse.write_eof(self)
        finally:
            # As long as the connection is kept, aiohttp keeps what was answered last.
            self.body = None
            UNREAD.give_back(self)
            if isinstance(request, web.Request):
                answered(request)

    def out_of_room(self) -> None:
        """See `Holder`: its client has too much left to read."""
        if self._transport is not None:
            # Not every event loop's transports are made from asyncio's class.
            cast("asyncio.Transport", self._transport).abort()


def json_answer(content: Any) -> WholeAnswer:
    """One that is made here."""
    headers = {"Content-Type": "application/json"}
    return WholeAnswer(status=200, body=msgspec.json.encode(content), headers=headers)
