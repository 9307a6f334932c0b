"""One request between its arrival and its end: the client's side, the facts, the running tasks."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Coroutine, Iterable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from prfaas.gateway.agent_client import TransferStatus
from prfaas.gateway.body import RequestBody
from prfaas.gateway.engine_client import EngineAnswer, error_message
from prfaas.gateway.openai_errors import ApiError
from prfaas.gateway.facts import TraceRecord
from prfaas.scheduler.commands import StartDecode, StartPrefill

logger = logging.getLogger(__name__)

_CLIENT_PATIENCE_S = 60.0
"""How long a client may read nothing of what waits to be sent: its answer holds a decode slot."""
_PASSED_ON = ("traceparent", "tracestate", "X-Session-ID")
"""Headers of the client that engines get too, if they are ASCII: others aiohttp cannot send."""


class ClientGone(Exception):
    """The client closed the connection while we wrote to it."""


class Prompt(msgspec.Struct, frozen=True):
    """What is known of the prompt. ``token_ids`` is None where the body must reach one engine
    untouched, for the reason in ``why_alone``."""

    token_ids: list[int] | None
    max_output_tokens: int
    stream: bool
    why_alone: str | None = None


class Exchange:
    """The state of one request.

    ``deadline_s``: seconds from arrival within which the first byte of the answer is due.
    ``key`` is the scheduler's name for it and the stem of its transfer ids; ``request_id`` is what
    the client and the engines' logs know. ``done`` gets the response that was sent, or an ApiError,
    or is cancelled where the client is gone.
    """

    def __init__(
        self,
        key: str,
        request_id: str,
        request: web.Request,
        body: RequestBody,
        *,
        deadline_s: float,
    ) -> None:
        self.key = key
        self.request_id = request_id
        self.body = body
        self.deadline_s = deadline_s
        self.cached: Mapping[str, int] = {}
        """Engine -> prompt tokens it holds, as the scheduler was told."""
        self.prompt = Prompt(None, 1, False)
        self.trace = TraceRecord(
            request_id=request_id, endpoint=body.endpoint, arrived_at=time.time()
        )
        self.done: asyncio.Future[web.StreamResponse] = asyncio.get_running_loop().create_future()
        self.out: web.StreamResponse | None = None
        self.transfers: dict[str, tuple[str, str]] = {}
        """Transfer id -> (prefill engine, decode engine) of transfers not yet dropped."""
        self._request = request
        self._began = time.monotonic()
        self._tasks: dict[tuple[str, int], asyncio.Task[None]] = {}

    @property
    def engine_headers(self) -> dict[str, str]:
        """What of the request's headers goes with every request to an engine."""
        given = self._request.headers
        found = {k: given[k] for k in _PASSED_ON if k in given and given[k].isascii()}
        return {"X-Request-Id": self.request_id, **found}

    def elapsed_s(self) -> float:
        return time.monotonic() - self._began

    def time_left_s(self) -> float:
        """Until the first token is due."""
        return self.deadline_s - self.elapsed_s()

    def note_attempt(
        self, command: StartPrefill | StartDecode, decode_cluster: Iterable[str]
    ) -> None:
        """Remember where this attempt goes and since when; ``decode_cluster`` names the engines
        of the decode engine's cluster."""
        trace = self.trace
        trace.cached_tokens = max(self.cached.get(name, 0) for name in decode_cluster)
        trace.attempts = max(trace.attempts, command.attempt)
        trace.route, trace.reason = command.route.value, self.prompt.why_alone or command.reason
        if isinstance(command, StartPrefill):
            trace.prefill_engine, trace.decode_engine = command.engine, command.decode_engine
            trace.prefill_started_s = self.elapsed_s()
            trace.prefilled_s = trace.transfer_first_byte_s = trace.transferred_s = None
            trace.from_token, trace.to_token = command.from_token, command.to_token
            trace.kv_bytes, trace.kv_bytes_hidden = 0, None
            return
        trace.decode_engine, trace.decode_started_s = command.engine, self.elapsed_s()
        if command.transfer_id is None:
            trace.prefill_engine = None
            trace.from_token = trace.to_token = trace.kv_bytes = 0
            trace.kv_bytes_hidden = None

    def note_transfer(self, status: TransferStatus) -> None:
        """The transfer is complete."""
        trace = self.trace
        trace.transferred_s = self.elapsed_s()
        trace.kv_bytes = status.bytes_total or 0
        if status.first_byte_at is not None:
            trace.transfer_first_byte_s = status.first_byte_at - trace.arrived_at

    def start(self, what: str, attempt: int, work: Coroutine[Any, Any, None]) -> None:
        """Run part of an attempt until it ends or `stop` is called for it."""
        task = self._tasks[what, attempt] = asyncio.ensure_future(work)
        task.add_done_callback(self._ended)

    def stop(self, what: str, attempt: int) -> None:
        task = self._tasks.pop((what, attempt), None)
        if task is not None:
            task.cancel()

    def stop_all(self) -> None:
        for what, attempt in list(self._tasks):
            self.stop(what, attempt)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (bug := task.exception()) is not None:
            logger.error("request %s: internal error", self.request_id, exc_info=bug)
            self.fail(ApiError(500, "internal error of the gateway", kind="internal_error"))

    # -- the client -----------------------------------------------------------------------------

    async def open(self, status: int, content_type: str) -> web.StreamResponse:
        """Send the response's head, with all that is known by now. Raises ClientGone."""
        headers = {"Content-Type": content_type, **self._facts()}
        out = web.StreamResponse(status=status, headers=headers)
        try:
            await out.prepare(self._request)
        except ConnectionError as error:
            raise ClientGone from error
        self.out = out
        self.trace.status = status
        return out

    async def write(self, chunk: bytes) -> None:
        """Send part of the body. Raises ClientGone."""
        assert self.out is not None
        await self._taken(self.out.write(chunk))

    async def finish(self) -> None:
        """Everything is written. Raises ClientGone."""
        assert self.out is not None
        await self._taken(self.out.write_eof())
        if not self.done.done():
            self.done.set_result(self.out)

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
        self.trace.error = self.trace.error or "the client stopped reading"
        self.hang_up()

    def hang_up(self) -> None:
        """The client is gone, or as good as: close its connection, whatever waits to be sent."""
        if self.done.cancel() and self._request.transport is not None:
            self._request.transport.abort()

    def succeed(self) -> None:
        """The answer is complete."""
        self.trace.outcome = "ok"
        self.trace.completed_s = self.elapsed_s()

    def note_failure(self, message: str) -> None:
        """The engine has said in the middle of its answer that it failed."""
        self.trace.outcome, self.trace.error = "engine_error", message

    def give(self, answer: EngineAnswer) -> None:
        """Give the client an engine's complete answer, be it a refusal of the request (4xx)."""
        self.trace.status = answer.status
        if answer.status < 400:
            self.succeed()
        else:
            self.trace.outcome, self.trace.error = "refused", error_message(answer.body)
        if not self.done.done():
            headers = {"Content-Type": answer.content_type, **self._facts()}
            self.done.set_result(
                web.Response(status=answer.status, body=answer.body, headers=headers)
            )

    def fail(self, error: ApiError) -> None:
        """Tell the client of a failure: as an answer, or as the last event of an open stream."""
        self.trace.error = str(error)
        self.trace.outcome = error.kind
        if self.done.done():
            return
        if self.out is None:
            self.trace.status = error.status
            self.done.set_exception(error)
        else:
            self.start("error", 0, self._break_off(error))

    async def _break_off(self, error: ApiError) -> None:
        try:
            await self.write(error.event)
            await self.finish()
        except ClientGone:
            pass
        finally:
            # All who wait for a client wait for one future in aiohttp: where the task stopped
            # before this one waited, that is cancelled.
            self.hang_up()

    def _facts(self) -> dict[str, str]:
        trace = self.trace
        if trace.route is None:
            return {"X-Request-Id": self.request_id}
        headers = {
            "X-Request-Id": self.request_id,
            "x-prfaas-route": f'{trace.route}; reason="{_quoted(trace.reason or "")}"',
            "x-prfaas-decode-engine": trace.decode_engine or "",
            "x-prfaas-attempts": str(trace.attempts),
        }
        if self.prompt.token_ids is not None:
            headers["x-prfaas-total-tokens"] = str(trace.total_tokens)
            headers["x-prfaas-cached-tokens"] = str(trace.cached_tokens)
            headers["x-prfaas-uncached-tokens"] = str(trace.uncached_tokens)
        if trace.prefill_engine is not None:
            headers["x-prfaas-prefill-engine"] = trace.prefill_engine
            headers["x-prfaas-kv-bytes"] = str(trace.kv_bytes)
        if trace.hidden_share is not None:
            headers["x-prfaas-kv-hidden"] = f"{trace.hidden_share:.4f}"
        return headers


def _quoted(text: str) -> str:
    """Text as it may stand between quotes in a header: one line of printable ASCII."""
    return "".join(c if " " <= c <= "~" and c not in '"\\' else "'" for c in text)[:400]
