"""Requests, and their bodies in memory: admitted before they are read, bounded all together."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from aiohttp import web

from prfaas.gateway.api_errors import RequestRefused, TooManyRequests
from prfaas.process.http_handler import received

_CODINGS = frozenset({"identity", "gzip", "deflate"})
_MOST_BESIDE, _BESIDE_SHARE = 272 * 1024, 8
"""Bytes that say how long chunks are, or have come and are not looked at yet (a quarter of a
megabyte at most); and one for so many of the body."""
_BESIDE_BYTES_PER_S = 256 * 1024
"""What is more than those comes as if over a line of this rate: a body in chunks of a few bytes
takes as long as one of thousands, of which it may have millions."""
_TIGHTEST, _LOOSE_BYTES, _TIGHT_BYTES_PER_S = 8, 1024 * 1024, 16 * 1024 * 1024
"""Text is packed to an eighth at best: so many bytes beyond that come at once, others as if over a
line of this rate. Otherwise kilobytes would take as long as the megabytes that are made of them."""
_READ_BYTES_PER_S = 256 * 1024 * 1024
"""So many are read here in half of the time, beside those that each may have at once: large bodies
of which the last byte comes at one time are one behind the other all the same."""


class Places:
    """How many requests there may be at a time. ``whose``: a tenant, where there are others: the
    last eighth of all places is for those that have no more than that."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._taken_by: Counter[str] = Counter()

    @contextmanager
    def one(self, taken: int, whose: str | None) -> Iterator[None]:
        """A place for as long as the block lasts, beside so many that are ``taken``. Raises
        TooManyRequests."""
        few = self.most // 8
        own = 0 if whose is None else self._taken_by[whose]
        if taken >= self.most or (own > few and taken >= self.most - few):
            raise TooManyRequests("too many requests in flight")
        if whose is not None:
            self._taken_by[whose] += 1
        try:
            yield
        finally:
            if whose is not None:
                self._taken_by[whose] -= 1
                if not self._taken_by[whose]:
                    del self._taken_by[whose]


class Bodies:
    """The bodies that one event loop has in memory.

    Args:
        most_bytes: of all bodies that are held at a time.
        within_s: how long a client may take to send one.
    """

    def __init__(self, most_bytes: int, within_s: float) -> None:
        self.most_bytes, self.within_s = most_bytes, within_s
        self.held_bytes = 0
        self._held_by: Counter[str] = Counter()
        self._beside = _Lines(_BESIDE_BYTES_PER_S)
        self._tight, self._large = _Lines(_TIGHT_BYTES_PER_S), _Lines(_READ_BYTES_PER_S)

    @asynccontextmanager
    async def reading(
        self, request: web.Request, *, whose: str | None = None
    ) -> AsyncIterator[bytes]:
        """The body, which counts as held as long as the block lasts. ``whose``: a tenant, where
        there are others: it may hold half of all that can be held, announced and sent or not.

        Raises TooManyRequests before anything is read where there is no room for what the client
        announces, or later where it sends more; HTTPRequestEntityTooLarge for one above the
        application's ``client_max_size``; RequestRefused (408) for one that does not come.
        """
        coding = request.headers.get("Content-Encoding", "identity").strip().lower()
        if coding not in _CODINGS:
            raise RequestRefused(
                415, f"the body is coded as {coding[:50]!r}; send it plain or gzip"
            )
        announced = request.content_length or 0
        if announced > request.client_max_size:
            raise web.HTTPRequestEntityTooLarge(request.client_max_size, announced)
        self._take(announced, whose)
        taken = announced
        try:
            parts, size = [], 0
            try:
                async with asyncio.timeout(self.within_s):
                    before, beside = received(request), 0
                    async for part in request.content.iter_any():
                        more = _beside(request, before) - beside
                        beside += max(0, more)
                        await asyncio.sleep(self._beside.comes_in_s(more, whose))
                        size += len(part)
                        if size > request.client_max_size:
                            raise web.HTTPRequestEntityTooLarge(request.client_max_size, size)
                        if size > taken:  # It was compressed, or came in chunks.
                            self._take(size - taken, whose)
                            taken = size
                        parts.append(part)
                        tight = size - _LOOSE_BYTES - _TIGHTEST * request.content.total_raw_bytes
                        # Where all of it is here, others have turns too.
                        await asyncio.sleep(self._tight.comes_in_s(min(tight, len(part)), whose))
                    await asyncio.sleep(self._large.comes_in_s(size - _LOOSE_BYTES, whose))
            except TimeoutError as error:
                message = f"the body has not come within {self.within_s:g} s"
                raise RequestRefused(408, message) from error
            yield b"".join(parts)
        finally:
            self._give_back(taken, whose)

    def _take(self, size: int, whose: str | None) -> None:
        # Alone a body is let in: the application bounds each.
        own = 0 if whose is None else self._held_by[whose]
        full = self.held_bytes and self.held_bytes + size > self.most_bytes
        if full or (own and own + size > self.most_bytes // 2):
            raise TooManyRequests(
                "the bodies of other requests fill the memory that there is for them"
            )
        self.held_bytes += size
        if whose is not None:
            self._held_by[whose] += size

    def _give_back(self, size: int, whose: str | None) -> None:
        self.held_bytes -= size
        if whose is not None:
            self._held_by[whose] -= size
            if not self._held_by[whose]:
                del self._held_by[whose]


class _Lines:
    """As if bytes came over one, each tenant's over its own."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._clear_at: dict[str, float] = {}
        """By the event loop's clock."""

    def comes_in_s(self, size: int, whose: str | None) -> float:
        """After how long so many bytes more have come; of none, or fewer, at once."""
        if size <= 0:
            return 0.0
        now, name = asyncio.get_running_loop().time(), whose or ""
        at = max(now, self._clear_at.get(name, now)) + size / self._bytes_per_s
        self._clear_at[name] = at
        return at - now


def _beside(request: web.Request, before: int) -> int:
    """How many more bytes have come of a body than are in it, and as its chunks need; 0 or less for
    one that is all here."""
    body = request.content.total_raw_bytes
    beside = received(request) - before - body
    return 0 if request.content.is_eof() else beside - _MOST_BESIDE - body // _BESIDE_SHARE
