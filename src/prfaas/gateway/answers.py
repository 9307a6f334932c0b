"""Relaying a decode engine's answer to the client, byte for byte.

Nothing goes out before the engine's first event is here, so an engine that fails before its first
token can be replaced unseen. A stream goes out in whole events: an error that ends it never follows
half of one. An answer that is not streamed goes out when it is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import aiohttp

from prfaas.core.errors import EngineError
from prfaas.gateway.body import Endpoint
from prfaas.gateway.client_response import ClientResponse
from prfaas.gateway.engine_client import EngineAnswer, EngineClient
from prfaas.gateway.upstream_errors import (
    CONNECTION_ERRORS,
    AnswerBroke,
    describe,
    error_message,
    error_status,
)

_DATA = b"data: "
_ERROR_EVENT = _DATA + b'{"error"'
_EVENT_END = b"\n\n"
_LONGEST_EVENT = 1 << 20
"""Bytes. What is longer (the logprobs of a whole prompt) is passed on in pieces as it comes."""


async def relay(
    engine: EngineClient,
    endpoint: Endpoint,
    body: bytes,
    headers: Mapping[str, str],
    response: ClientResponse,
    *,
    on_first_token: Callable[[], None],
) -> None:
    """Have the engine answer and pass the answer on.

    A refusal of the request itself (4xx) is the client's answer too; vLLM may begin a stream before
    it looks at everything, and refuse in its first event. Raises AnswerBroke or ClientGone.
    """
    try:
        answer = await engine.open_answer(endpoint, body, headers)
    except EngineError as error:
        raise AnswerBroke(str(error)) from error
    try:
        kind = answer.headers.get("Content-Type", "application/json")
        if answer.status == 200 and kind.startswith("text/event-stream"):
            await _stream(engine, answer, response, kind, on_first_token)
        else:
            body = await _read(engine, answer)
            if answer.status >= 500:
                what = error_message(body)
                raise AnswerBroke(f"{engine.name} answered {answer.status}: {what}")
            on_first_token()
            response.give(EngineAnswer(answer.status, kind, body))
    finally:
        answer.close()


async def _stream(
    engine: EngineClient,
    answer: aiohttp.ClientResponse,
    response: ClientResponse,
    kind: str,
    on_first_token: Callable[[], None],
) -> None:
    stream = EventStream(engine.name, answer.content)
    events = await stream.first()
    if not events:
        raise AnswerBroke(f"{engine.name} ended the stream before its first token")
    if events.startswith(_ERROR_EVENT):
        error = _error_in(events)
        status = error_status(error)
        if 400 <= status < 500:
            response.give(EngineAnswer(status, "application/json", error))
            return
        raise AnswerBroke(f"{engine.name}: {error_message(error)}")
    await response.open(answer.status, kind)
    on_first_token()
    broken = False
    while events:
        if _ERROR_EVENT in events:
            broken = True
            response.note_failure(error_message(_error_in(events)))
        await response.write(events)
        events = await stream.next()
    if not broken:
        response.succeed()
    await response.finish()


def _error_in(events: bytes) -> bytes:
    """The JSON of the first error event."""
    return events[events.index(_ERROR_EVENT) + len(_DATA) :].partition(b"\n")[0]


class EventStream:
    """An engine's stream, cut where an event ends."""

    def __init__(self, engine: str, content: aiohttp.StreamReader) -> None:
        self._engine = engine
        self._content = content
        self._held = b""
        """An event of which the end has not come yet."""

    async def first(self) -> bytes:
        """As `next`, without the comments that vLLM may send while nothing else is to be said."""
        events = await self.next()
        while events.startswith(b":"):
            events = events.partition(_EVENT_END)[2] or await self.next()
        return events

    async def next(self) -> bytes:
        """The whole events that have come, one at least; empty at the end. Raises AnswerBroke."""
        while True:
            try:
                come = await self._content.readany()
            except CONNECTION_ERRORS as error:
                raise AnswerBroke(f"{self._engine} broke off: {describe(error)}") from error
            if not self._held and come.endswith(_EVENT_END):
                return come  # As nearly always.
            events = self._cut(come)
            if events or not come:
                return events

    def _cut(self, come: bytes) -> bytes:
        """What can go out now that these bytes have come; empty: it is the end."""
        seen, here = len(self._held), self._held + come
        last = here.rfind(_EVENT_END, max(0, seen - 1))
        if last >= 0:
            end = last + len(_EVENT_END)
        else:
            end = 0 if come and len(here) <= _LONGEST_EVENT else len(here)
        self._held = here[end:]
        return here[:end]


async def _read(engine: EngineClient, answer: aiohttp.ClientResponse) -> bytes:
    try:
        return await answer.read()
    except CONNECTION_ERRORS as error:
        raise AnswerBroke(f"{engine.name} broke off: {describe(error)}") from error
