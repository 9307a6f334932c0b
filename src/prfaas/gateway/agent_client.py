"""HTTP to one agent: registered engines, transfers, links."""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator
from functools import partial
from typing import Literal, TypeVar

import msgspec

from prfaas.core.cache_copies import AwaitCopy, CopyCached
from prfaas.core.cache_news import CacheNews
from prfaas.core.errors import (
    UNREADABLE,
    EngineError,
    LinkError,
    PeerError,
    PrfaasError,
    nobody_listens,
)
from prfaas.core.gateway_sessions import Renewal, Standing
from prfaas.core.handoff import Bytes, Number, Reason
from prfaas.core.layout import KvLayout
from prfaas.core.once_a_second import OnceASecond
from prfaas.core.versions import AGENT_API, AGENT_API_HEADER, difference
from prfaas.gateway.http_answer import Answer, Timeouts
from prfaas.gateway.http_client import HttpClient
from prfaas.gateway.registered_ranks import MemoryCounts, Registered, RegisteredRank
from prfaas.gateway.upstream_errors import CONNECTION_ERRORS, LocalFault, describe, is_local
from prfaas.kv_events.wire import Frame, FrameReader, Stopped
from prfaas.link.api import Count, LinkState, LinkStates, TransferBytes

logger = logging.getLogger(__name__)

T = TypeVar("T")

_VERSION = {AGENT_API_HEADER: str(AGENT_API)}
_SHORT = Timeouts(5.0, 2.0)
_STREAM = Timeouts(None, 2.0, 5.0)
"""An agent sends link states at least every two seconds: five silent ones mean it hangs."""
_LINKS_EVERY_S = 0.05  # It sends them ten times a second at most.

_CACHE_NEWS: msgspec.json.Decoder[CacheNews] = msgspec.json.Decoder(CacheNews)
_SHOWN = 300  # Bytes of an answer that says no, or of what is wrong with one.
_LONGEST_ANSWER, _LONGEST_NEWS = 16 * 1024 * 1024, 8 * 1024 * 1024
"""Bytes: 64 ranks with all their layers have some 4 MiB as JSON, the longest prefix that is cached
as well."""


class SentTransfer(msgspec.Struct, frozen=True):
    """The sending side. ``bytes_acknowledged_at_export_end``: what the receiver had stored when
    prefill ended, that is, what the transfer hid behind prefill."""

    bytes_acknowledged_at_export_end: TransferBytes | None = None


class TransferStatus(msgspec.Struct, frozen=True):
    """Both sides of a transfer on one agent, all ranks together, as far as the gateway cares.
    ``first_byte_at`` is in Unix seconds."""

    state: Literal["unknown", "receiving", "complete", "failed"]
    reason: Reason | None = None
    bytes_total: TransferBytes | None = None
    bytes_stored: TransferBytes | None = None
    first_byte_at: Number | None = None
    sent: SentTransfer | None = None
    reads: Count | None = None
    """By how many ranks each part was read; agents of a release before do not say."""


class DiskSizes(msgspec.Struct, frozen=True):
    """How full a cache's tier on disk is."""

    size_bytes: Bytes
    used_bytes: Bytes


class CacheSizes(msgspec.Struct, frozen=True):
    """How full an agent's cache is; agents of an earlier release pin nothing, and have no disk."""

    size_bytes: Bytes
    used_bytes: Bytes
    pinned_bytes: Bytes = 0
    most_pinned_bytes: Bytes = 0
    disk: DiskSizes = DiskSizes(0, 0)


class AgentLate(LinkError):
    """It has not answered in time. It may be busy; what it was asked about may go on."""


class AgentGone(LinkError):
    """Nobody listens at its address."""


class AgentClient:
    """One agent. Every method raises LinkError if the agent cannot be reached or understood, or
    LocalFault where it is this process that failed."""

    def __init__(self, name: str, url: str, http: HttpClient) -> None:
        self.name = name
        self.memory: MemoryCounts | None = None
        """As it was when the engines were last asked for; agents of before do not say it."""
        self.url = url
        self.tls: ssl.SSLContext | None = None
        """What it is shown, and must show, where its URL is ``https``."""
        self._http = http
        self.links_now: list[LinkState] = []
        """What it last said of its links; nothing where it cannot be asked."""
        self._lines = OnceASecond()
        self._answered = b"", list[RegisteredRank]()
        """The last answer, and what it says: layouts are large and seldom change."""

    async def engines(self) -> list[RegisteredRank]:
        """The engine ranks that are registered now."""
        body = await self._get("/engines", _SHORT)
        if body != self._answered[0]:
            found = read_answer(self.name, body, Registered)
            layout_of = partial(read_answer, self.name, kind=KvLayout)
            self._answered = body, [rank async for rank in found.ranks(layout_of)]
            self.memory = found.memory
        return self._answered[1]

    async def transfer(
        self, transfer_id: str, *, wait_s: float, ranks: int, reads: int = 0
    ) -> TransferStatus:
        """Wait up to ``wait_s`` for all ranks' ends of the transfer, and until each was read so
        often; then say how it stands."""
        timeouts = Timeouts(wait_s + 10.0, 2.0)
        path = f"/transfers/{transfer_id}?wait_s={wait_s:g}&ranks={ranks}"
        if reads:
            path += f"&reads={reads}"
        return read_answer(self.name, await self._get(path, timeouts), TransferStatus)

    async def drop(self, transfer_id: str) -> None:
        """Cancel or forget a transfer, whichever part this agent plays in it."""
        try:
            path = f"/transfers/{transfer_id}"
            async with await self._send("DELETE", path, _SHORT) as answer:
                await answer.read(_LONGEST_ANSWER)
                if answer.status >= 500:
                    raise LinkError(f"agent {self.name}: dropping answered {answer.status}")
        except CONNECTION_ERRORS as error:
            raise self._failure(error) from error

    async def renew(self, session_id: str, renewal: Renewal) -> Standing | None:
        """Hold a gateway's session; None where the agent, of a release before, keeps none."""
        try:
            path, body = f"/gateways/{session_id}", msgspec.json.encode(renewal)
            async with await self._send("PUT", path, _SHORT, body) as answer:
                found = await answer.read(_LONGEST_ANSWER)
                self._check_version(answer)
                if answer.status in (404, 405):
                    return None
                if answer.status != 200:
                    raise LinkError(f"agent {self.name}: a session answered {answer.status}")
                return read_answer(self.name, found, Standing)
        except CONNECTION_ERRORS as error:
            raise self._failure(error) from error

    async def end_session(self, session_id: str) -> None:
        """Have the agent drop what is left of this gateway."""
        try:
            path = f"/gateways/{session_id}"
            async with await self._send("DELETE", path, _SHORT) as answer:
                await answer.read(_LONGEST_ANSWER)
        except CONNECTION_ERRORS as error:
            raise self._failure(error) from error

    async def link_states(self) -> AsyncIterator[list[LinkState]]:
        """Link states as the agent sends them, until it goes away (LinkError)."""
        try:
            async with await self._send("GET", "/links/events", _STREAM) as answer:
                last = b""
                self._check_version(answer)
                async for line in answer.newest(_LONGEST_NEWS, _LINKS_EVERY_S):
                    if line == last:
                        continue
                    last = line
                    try:
                        states = read_answer(self.name, line, LinkStates).links
                    except LinkError as error:  # The next line is another message.
                        if self._lines.times("links", time.monotonic()):
                            logger.warning("%s", error)
                        continue
                    self.links_now = states
                    yield states
        except (*CONNECTION_ERRORS, ValueError) as error:
            raise self._failure(error) from error
        finally:
            self.links_now = []
        raise LinkError(f"agent {self.name} ended its stream of link states")

    async def await_copy(self, copy_id: str, awaited: AwaitCopy) -> None:
        """Tell it what another agent will send."""
        await self._ask("PUT", f"/cache/copies/{copy_id}", awaited)

    async def send_copy(self, copy_id: str, wanted: CopyCached) -> None:
        """Have it send what it has cached; it has begun when this returns."""
        await self._ask("POST", f"/cache/copies/{copy_id}", wanted)

    async def cache_sizes(self) -> CacheSizes:
        """How much it has cached and pinned."""
        return read_answer(self.name, await self._get("/cache", _SHORT), CacheSizes)

    async def pin(self, transfer_id: str) -> None:
        """Have what it has cached of a transfer stay."""
        await self._ask("PUT", f"/cache/pins/{transfer_id}")

    async def unpin(self, transfer_id: str) -> None:
        """It may go again."""
        await self._ask("DELETE", f"/cache/pins/{transfer_id}")

    async def cache_news(self) -> AsyncGenerator[CacheNews, None]:
        """All that the agent has cached, then what comes and goes, until it goes away (LinkError).
        One of an earlier release has none."""
        try:
            async with await self._send("GET", "/cache/events", _STREAM) as answer:
                self._check_version(answer)
                if answer.status != 200:
                    raise LinkError(f"agent {self.name}: /cache/events answered {answer.status}")
                async for line in answer.lines(_LONGEST_NEWS):
                    yield _CACHE_NEWS.decode(line)
        except UNREADABLE as error:
            why = str(error)[:_SHOWN]
            raise LinkError(f"agent {self.name}: unreadable cache event: {why}") from error
        except (*CONNECTION_ERRORS, ValueError) as error:
            raise self._failure(error) from error
        raise LinkError(f"agent {self.name} ended its stream of cache events")

    async def kv_events(self, engine: str, stopped: Stopped) -> AsyncIterator[Frame]:
        """What one of its engines has cached, or what was not told before it ``stopped``, until the
        agent goes away (LinkError). Raises EngineError for what is unreadable or where the agent
        does not follow it."""
        path = f"/engines/{engine}/kv-events?{stopped.query()}"
        try:
            async with await self._send("GET", path, _STREAM) as answer:
                self._check_version(answer)
                if answer.status != 200:
                    raise EngineError(f"agent {self.name} answers {answer.status} for its cache")
                reader = FrameReader()
                async for data in answer.pieces():
                    for frame in reader.feed(data):
                        yield frame
        except (*CONNECTION_ERRORS, ValueError) as error:
            raise self._failure(error) from error
        raise LinkError(f"agent {self.name} ended its stream of cache events")

    async def _get(self, path: str, timeouts: Timeouts) -> bytes:
        try:
            async with await self._send("GET", path, timeouts) as answer:
                body = await answer.read(_LONGEST_ANSWER)
                self._check_version(answer)
                if answer.status != 200:
                    raise LinkError(f"agent {self.name}: {path} answered {answer.status}")
                return body
        except CONNECTION_ERRORS as error:
            raise self._failure(error) from error

    async def _ask(self, method: str, path: str, content: msgspec.Struct | None = None) -> None:
        try:
            body = b"" if content is None else msgspec.msgpack.encode(content)
            async with await self._send(method, path, _SHORT, body) as answer:
                found = await answer.read(_LONGEST_ANSWER)
                self._check_version(answer)
                if answer.status >= 300:
                    why = found[:_SHOWN].decode(errors="replace")
                    raise LinkError(f"agent {self.name}: {path} answered {answer.status}: {why}")
        except CONNECTION_ERRORS as error:
            raise self._failure(error) from error

    async def _send(self, method: str, path: str, timeouts: Timeouts, data: bytes = b"") -> Answer:
        try:
            return await self._http.request(
                method, self.url, path, data=data, headers=_VERSION, timeouts=timeouts, tls=self.tls
            )
        except PeerError as error:
            raise LinkError(f"agent {self.name}: {error}") from error

    def _check_version(self, answer: Answer) -> None:
        why = difference(answer.header(AGENT_API_HEADER))
        if why is not None:
            raise LinkError(f"agent {self.name}: {why}")

    def _failure(self, error: BaseException) -> PrfaasError:
        message = f"agent {self.name}: {describe(error)}"
        if is_local(error):
            return LocalFault(message)
        if isinstance(error, TimeoutError):
            return AgentLate(message)
        return AgentGone(message) if nobody_listens(error) else LinkError(message)


def read_answer(agent: str, body: bytes, kind: type[T]) -> T:
    """Raises LinkError for what is none."""
    try:
        return msgspec.json.decode(body, type=kind)
    except UNREADABLE as error:
        raise LinkError(f"agent {agent}: unreadable answer: {str(error)[:_SHOWN]}") from error
