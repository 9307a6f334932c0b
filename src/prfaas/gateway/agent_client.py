"""HTTP to one agent: registered engines, transfers, links."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Literal, TypeVar

import aiohttp
import msgspec

from prfaas.core.errors import LinkError, PrfaasError
from prfaas.core.layout import KvLayout
from prfaas.gateway.http_client import HttpClient
from prfaas.gateway.upstream_errors import CONNECTION_ERRORS, LocalFault, describe, is_local
from prfaas.link.api import LinkState, LinkStates

logger = logging.getLogger(__name__)

T = TypeVar("T")

_SHORT = aiohttp.ClientTimeout(total=5.0, sock_connect=2.0)
_STREAM = aiohttp.ClientTimeout(total=None, sock_connect=2.0, sock_read=5.0)
"""An agent sends link states at least every two seconds: five silent ones mean it hangs."""


class RegisteredRank(msgspec.Struct, frozen=True):
    """One tensor-parallel rank of an engine, as it registered with the agent."""

    engine: str
    pid: int
    layout: KvLayout


class SentTransfer(msgspec.Struct, frozen=True):
    """The sending side. ``bytes_acknowledged_at_export_end``: what the receiver had stored when
    prefill ended, that is, what the transfer hid behind prefill."""

    bytes_acknowledged_at_export_end: int | None = None


class TransferStatus(msgspec.Struct, frozen=True):
    """Both sides of a transfer on one agent, all ranks together, as far as the gateway cares.
    ``first_byte_at`` is in Unix seconds."""

    state: Literal["unknown", "receiving", "complete", "failed"]
    reason: str | None = None
    bytes_total: int | None = None
    bytes_stored: int | None = None
    first_byte_at: float | None = None
    sent: SentTransfer | None = None


class _Engines(msgspec.Struct, frozen=True):
    engines: list[RegisteredRank]


class AgentClient:
    """One agent. Every method raises LinkError if the agent cannot be reached or understood, or
    LocalFault where it is this process that failed."""

    def __init__(self, name: str, url: str, http: HttpClient) -> None:
        self.name = name
        self._url = url
        self._http = http
        self._engines: tuple[bytes, list[RegisteredRank]] = b"", []
        """The last answer, and what it says: layouts are large and seldom change."""

    async def engines(self) -> list[RegisteredRank]:
        """The engine ranks that are registered now."""
        body = await self._get("/engines", _SHORT)
        if body != self._engines[0]:
            self._engines = body, self._parse(body, _Engines).engines
        return self._engines[1]

    async def transfer(self, transfer_id: str, *, wait_s: float, ranks: int) -> TransferStatus:
        """Wait up to ``wait_s`` for all ranks' ends of the transfer, then say how it stands."""
        timeout = aiohttp.ClientTimeout(total=wait_s + 10.0, sock_connect=2.0)
        path = f"/transfers/{transfer_id}?wait_s={wait_s:g}&ranks={ranks}"
        return self._parse(await self._get(path, timeout), TransferStatus)

    async def drop(self, transfer_id: str) -> None:
        """Cancel or forget a transfer, whichever part this agent plays in it."""
        try:
            url = f"{self._url}/transfers/{transfer_id}"
            async with await self._http.request("DELETE", url, timeout=_SHORT) as answer:
                await answer.read()
                if answer.status >= 500:
                    raise LinkError(f"agent {self.name}: dropping answered {answer.status}")
        except CONNECTION_ERRORS as error:
            raise self._failure(error) from error

    async def link_states(self) -> AsyncIterator[list[LinkState]]:
        """Link states as the agent sends them, until it goes away (LinkError)."""
        try:
            url = f"{self._url}/links/events"
            async with await self._http.request("GET", url, timeout=_STREAM) as answer:
                last = b""
                while line := await answer.content.readline():
                    if line == last:
                        continue
                    last = line
                    try:
                        states = self._parse(line, LinkStates).links
                    except LinkError as error:
                        logger.warning("%s", error)  # The next line is another message.
                        continue
                    yield states
        except (*CONNECTION_ERRORS, ValueError) as error:
            raise self._failure(error) from error
        raise LinkError(f"agent {self.name} ended its stream of link states")

    async def _get(self, path: str, timeout: aiohttp.ClientTimeout) -> bytes:
        try:
            async with await self._http.request("GET", self._url + path, timeout=timeout) as answer:
                body = await answer.read()
                if answer.status != 200:
                    raise LinkError(f"agent {self.name}: {path} answered {answer.status}")
                return body
        except CONNECTION_ERRORS as error:
            raise self._failure(error) from error

    def _failure(self, error: BaseException) -> PrfaasError:
        message = f"agent {self.name}: {describe(error)}"
        return LocalFault(message) if is_local(error) else LinkError(message)

    def _parse(self, body: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.DecodeError as error:
            raise LinkError(f"agent {self.name}: unreadable answer: {error}") from error
