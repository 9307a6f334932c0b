"""The client's side of one request: what it was sent, and whether it is still there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from aiohttp import web

from prfaas.gateway.api_errors import ApiError
from prfaas.gateway.dialects import dialect_of
from prfaas.gateway.engine_client import EngineAnswer
from prfaas.gateway.facts import RequestFacts
from prfaas.gateway.upstream_errors import error_message
from prfaas.gateway.usage import (
    without_cached_tokens,
    without_cached_tokens_in_turns,
    without_last_usage,
)
from prfaas.gateway.whole_answer import WholeAnswer

REFUSED = web.RequestKey("refused", ApiError)
"""Why a stream that had begun with comments was ended: its status has said nothing of it."""
_CLIENT_PATIENCE_S = 60.0
"""How long a client may read nothing of what waits to be sent: its answer holds a decode slot."""


_COMMENT = b": the prompt is being computed\n\n"
"""Every reader of server-sent events passes over lines that begin so."""
_STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""Proxies that would gather a stream are told not to."""


class _Stream(web.StreamResponse):
    """Its head goes out together with what comes first."""

    _send_headers_immediately = False


class ClientGone(Exception):
    """The client closed the connection while we wrote to it."""


class ClientResponse:
    """One response, written once; what it told the client goes into ``facts``.

    ``done`` gets the response that was sent, or an ApiError, or is cancelled where the client is
    gone. Until `open` nothing of an answer has left, so that another engine can still answer; a
    stream's head and comments may have (`keep_alive`).
    """

    def __init__(
        self, request: web.Request, facts: RequestFacts, *, hides_usage: bool = False
    ) -> None:
        self._request, self._hides_usage = request, hides_usage
        self._facts = facts
        self._dialect = dialect_of(facts.endpoint)
        self.prompt_told = 0
        """How many tokens its engine says that the prompt has; 0: it has not said."""
        self._out: web.StreamResponse | None = None
        self._begun = False
        self._opening = asyncio.Lock()
        self.done: asyncio.Future[web.StreamResponse] = asyncio.get_running_loop().create_future()

    @property
    def opened(self) -> bool:
        """Whether a stream's head went out, or is about to."""
        return self._out is not None or self._opening.locked()

    async def keep_alive(self, every_s: float) -> None:
        """Send a comment now and whenever so many seconds have passed without an answer, and the
        head of a stream before the first, so that no proxy takes the connection for dead. Ends when
        the answer begins."""
        try:
            while not self._begun and not self.done.done():
                await self._send_head(200, "text/event-stream; charset=utf-8")
                if self._begun or self._out is None:
                    return
                await self._taken(self._out.write(_COMMENT))
                await asyncio.sleep(every_s)
        except ClientGone:
            return  # Whoever answers finds out as well.

    async def open(self, status: int, content_type: str) -> None:
        """The answer begins: its head, with all that is known by now, goes out with the first
        `write`, unless it has been sent. Raises ClientGone."""
        self._begun = True
        await self._send_head(status, content_type)

    async def _send_head(self, status: int, content_type: str) -> None:
        async with self._opening:
            if self._out is not None:
                return
            headers = {"Content-Type": content_type, **_STREAM_HEADERS, **self._facts.headers()}
            out = _Stream(status=status, headers=headers)
            try:
                await out.prepare(self._request)
            except ConnectionError as error:
                raise ClientGone from error
            self._out = out
            self._facts.status = status

    async def write(self, chunk: bytes) -> None:
        """Send part of the body: whole events. Raises ClientGone."""
        assert self._out is not None
        await self._taken(self._out.write(self._counted(chunk)))

    async def finish(self, chunk: bytes = b"") -> None:
        """Send the last events, and the end. Raises ClientGone."""
        assert self._out is not None
        await self._taken(self._out.write_eof(self._counted(chunk)))
        if not self.done.done():
            self.done.set_result(self._out)

    def _counted(self, chunk: bytes) -> bytes:
        """As the client may see it."""
        # A client that leaves in the middle has had so many.
        tokens = self._dialect.tokens_in(chunk)
        self._facts.answer_tokens = (self._facts.answer_tokens or 0) + tokens
        if self._hides_usage:
            chunk = without_last_usage(chunk)
        if self._facts.tells:
            return chunk
        return without_cached_tokens(chunk, message=self._dialect.anthropic)

    def succeed(self) -> None:
        """The answer is complete."""
        self._facts.outcome = "ok"

    def note_failure(self, message: str) -> None:
        """The engine has said in the middle of its answer that it failed."""
        self._facts.outcome, self._facts.error = "engine_error", message

    async def give(self, answer: EngineAnswer) -> None:
        """Give the client an engine's complete answer, be it a refusal of the request (4xx): that
        is an event where a stream's head went out. Raises ClientGone."""
        self._begun = True
        facts = self._facts
        facts.status = answer.status
        if answer.status < 400:
            self.succeed()
        else:
            facts.outcome, facts.error = "refused", error_message(answer.body)
        async with self._opening:
            opened = self._out is not None
        if opened:
            message = error_message(answer.body)
            await self.write(self._dialect.error_event(answer.status, "refused", message, None))
            await self.finish()
            return
        headers = {"Content-Type": answer.content_type, **facts.headers()}
        body = answer.body
        if not facts.tells:
            anthropic = self._dialect.anthropic
            body = await without_cached_tokens_in_turns(body, message=anthropic)
        body = self._dialect.refusal(answer.status, body) if answer.status >= 400 else body
        if not self.done.done():
            self.done.set_result(WholeAnswer(status=answer.status, body=body, headers=headers))

    def refuse(self, error: ApiError) -> None:
        """Answer with an error; nothing may have been sent."""
        self._begun = True
        if not self.done.done():
            self._facts.status = error.status
            self.done.set_exception(error)
            self.done.exception()  # Who goes at this moment hears it no more, which is no fault.

    async def break_off(self, error: ApiError) -> None:
        """End an open stream with an error event."""
        self._begun, self._request[REFUSED] = True, error
        async with self._opening:
            pass  # What is about to go out goes first.
        if self._out is None:
            self.hang_up()
            return
        try:
            await self.write(
                self._dialect.error_event(error.status, error.kind, str(error), error.param)
            )
            await self.finish()
        except ClientGone:
            pass
        finally:
            # All who wait for a client wait for one future in aiohttp: where the task stopped
            # before this one waited, that is cancelled.
            self.hang_up()

    def hang_up(self) -> None:
        """The client is gone, or as good as: close its connection, whatever waits to be sent."""
        if self.done.cancel() and self._request.transport is not None:
            self._request.transport.abort()

    async def _taken(self, writing: Awaitable[None]) -> None:
        loop = asyncio.get_running_loop()
        patience = loop.call_later(_CLIENT_PATIENCE_S, self._lose_patience)
        try:
            await writing
        except ConnectionError as error:
            raise ClientGone from error
        finally:
            patience.cancel()

    def _lose_patience(self) -> None:
        self._facts.error = self._facts.error or "the client stopped reading"
        self.hang_up()
