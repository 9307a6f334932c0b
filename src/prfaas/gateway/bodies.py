"""Requests, and their bodies in memory: admitted before they are read, bounded all together."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from aiohttp import web

from prfaas.gateway.api_errors import RequestRefused, TooManyRequests
from prfaas.gateway.tenants import Tenant
from prfaas.process.http_handler import received
from prfaas.process.lines import Lines
from prfaas.process.taking_turns import want
from prfaas.process.turns import Turns

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
_SHARE = 1 / 8
"""Of this thread's time, for taking apart each tenant's bodies in chunks."""
_READ_BYTES_PER_S = 256 * 1024 * 1024
"""So many are read here in half of the time, beside those that each may have at once: large bodies
of which the last byte comes at one time are one behind the other all the same."""

_NEWEST_COUNTS = 0.2
"""The share of the latest body in how long bodies are held; the rest is what was known before."""


class Places:
    """How many requests there may be at a time. Where there are several tenants the last eighth of
    all places is for those that have no more than that."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._taken_by: Counter[str] = Counter()

    def full(self, tenant: Tenant | None) -> TooManyRequests:
        """What is said where there is none for this tenant; None: an operator.

        All places are given back within the time of a request, by how long the tenant's own take:
        others' are not its to know, nor how many of them there are. Who may have none of the last
        eighth waits until that is free, and one more.
        """
        ending = 1
        if tenant is not None and self._taken_by[tenant.name] > self.most // 8:
            ending += self.most // 8
        wait_s = 0.0 if tenant is None else tenant.takes_s * ending / self.most
        return TooManyRequests("too many requests in flight", retry_after_s=wait_s)

    @contextmanager
    def one(self, taken: int, tenant: Tenant | None) -> Iterator[None]:
        """A place for as long as the block lasts, beside so many that are ``taken``. Raises
        TooManyRequests."""
        few, whose = self.most // 8, name_apart(tenant)
        own = 0 if whose is None else self._taken_by[whose]
        if taken >= self.most or (own > few and taken >= self.most - few):
            raise self.full(tenant)
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
        self._takes_s: dict[str | None, float] = {}
        """How long a tenant's bodies are held, about."""
        self._turns: dict[str | None, Turns] = {}
        self._beside = Lines(_BESIDE_BYTES_PER_S)
        self._tight, self._large = Lines(_TIGHT_BYTES_PER_S), Lines(_READ_BYTES_PER_S)

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
        taken, began = announced, _now()
        try:
            parts, size = [], 0
            try:
                async with asyncio.timeout(self.within_s):
                    before, beside = received(request), 0
                    want(request, self._turns.setdefault(whose, Turns(_SHARE)))
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
            takes_s = self._takes_s.get(whose, _now() - began)
            self._takes_s[whose] = takes_s + _NEWEST_COUNTS * (_now() - began - takes_s)

    def _take(self, size: int, whose: str | None) -> None:
        # Alone a body is let in: the application bounds each.
        own = 0 if whose is None else self._held_by[whose]
        full = self.held_bytes > 0 and self.held_bytes + size > self.most_bytes
        if full or (own and own + size > self.most_bytes // 2):
            wait_s = self._takes_s.get(whose, 0.0) * self._share(size, whose, full=full)
            why = "the bodies of other requests fill the memory that there is for them"
            raise TooManyRequests(why, retry_after_s=wait_s)
        self.held_bytes += size
        if whose is not None:
            self._held_by[whose] += size

    def _share(self, size: int, whose: str | None, *, full: bool) -> float:
        """What of the bodies that are held must have ended before there is room for one, about.
        Where others' fill it, it is what a tenant can know: that they are as much as there may
        be."""
        own = self.held_bytes if whose is None else self._held_by[whose]
        if whose is None:
            return min(1.0, (own + size - self.most_bytes) / own)
        share = (own + size - self.most_bytes // 2) / own if own else 0.0
        return min(1.0, max(share, size / self.most_bytes if full else 0.0))

    def _give_back(self, size: int, whose: str | None) -> None:
        self.held_bytes -= size
        if whose is not None:
            self._held_by[whose] -= size
            if not self._held_by[whose]:
                del self._held_by[whose]


def name_apart(tenant: Tenant | None) -> str | None:
    """Whose share of what there is for requests is used; None: it is not shared."""
    return tenant.name if tenant is not None and tenant.has_others() else None


def _now() -> float:
    return asyncio.get_running_loop().time()


def _beside(request: web.Request, before: int) -> int:
    """How many more bytes have come of a body than are in it, and as its chunks need; 0 or less for
    one that is all here."""
    body = request.content.total_raw_bytes
    beside = received(request) - before - body
    return 0 if request.content.is_eof() else beside - _MOST_BESIDE - body // _BESIDE_SHARE
