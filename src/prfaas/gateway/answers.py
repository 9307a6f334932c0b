"""Relaying a decode engine's answer to the client, byte for byte.

Nothing goes out before the engine's first event is here, so an engine that fails before its first
token can be replaced unseen. A stream goes out in whole events: an error that ends it never follows
half of one. An answer that is not streamed goes out when it is complete.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import msgspec

from prfaas.core.errors import UNREADABLE, EngineError
from prfaas.gateway.client_response import ClientResponse
from prfaas.gateway.dialects import Dialect, Endpoint, dialect_of
from prfaas.gateway.engine_client import EngineAnswer, EngineClient
from prfaas.gateway.event_stream import EventStream
from prfaas.gateway.http_answer import Answer
from prfaas.gateway.upstream_errors import (
    CONNECTION_ERRORS,
    engine_error,
    error_message,
    error_status,
    refusal,
)
from prfaas.gateway.usage import counts_in, counts_told

_LONGEST_OPENING = 64 * 1024 * 1024
"""Bytes of events before the first of the model: each says the request again."""
_FIRST_EVENTS = (b"data:", b"event:", b"id:", b"retry:")
_LARGE = 1024 * 1024
"""Bytes of an answer of which not all is read to see that it is one."""
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


async def relay(
    engine: EngineClient,
    endpoint: Endpoint,
    body: bytes,
    headers: Mapping[str, str],
    response: ClientResponse,
    *,
    on_first_token: Callable[[], None],
    whose: str = "",
    most_tokens: int = 0,
) -> int | None:
    """Have the engine answer this tenant, and pass the answer on. Returns how many tokens it has,
    as near as its events or its usage say; None where they do not. ``most_tokens``: it may have no
    more, whatever the usage says.

    A refusal of the request itself (4xx) is the client's answer too; vLLM may begin a stream before
    it looks at everything, and refuse in its first event. Raises EngineError, LocalFault, or
    ClientGone.
    """
    dialect = dialect_of(endpoint)
    answer = await engine.open_answer(endpoint, body, headers, whose)
    try:
        kind = answer.header("Content-Type") or "application/json"
        if answer.status == 200 and kind.startswith("text/event-stream"):
            return await _stream(
                engine, answer, response, kind, dialect, on_first_token, most_tokens
            )
        content = await _read(engine, answer)
        _check(engine, answer, content)
        on_first_token()
        counts = await counts_in(content, most_tokens)  # Before it is over for its tenant.
        response.prompt_told = counts.prompt
        await response.give(EngineAnswer(answer.status, kind, content))
        return counts.answer
    finally:
        answer.close()


def _check(engine: EngineClient, answer: Answer, content: bytes) -> None:
    """Raise EngineError for what is neither an answer nor a refusal of the request."""
    if answer.status != 200:
        failure = refusal(engine.name, answer.status, answer.header("Retry-After"), content)
        if failure is not None:
            raise failure
        return
    if len(content) > _LARGE and content[:1] + content[-1:] == b"{}":
        return
    try:
        _OBJECT.decode(content)
    except UNREADABLE as error:
        raise EngineError(f"{engine.name} answered 200 with no JSON object: {error}") from error


async def _stream(
    engine: EngineClient,
    answer: Answer,
    response: ClientResponse,
    kind: str,
    dialect: Dialect,
    on_first_token: Callable[[], None],
    most_tokens: int,
) -> int | None:
    stream = EventStream(engine.name, answer, on_heard=engine.hear)
    pieces = await _first_of_answer(stream, dialect)
    if not pieces or not pieces[0].startswith(_FIRST_EVENTS):
        what = "sent no events" if pieces else "ended the stream before its first token"
        raise EngineError(f"{engine.name} {what}")
    marks = pieces[-1].replace(b"\r\n", b"\n")
    if dialect.begins_with_error(marks):
        await _refused_in(engine, dialect.error_in(marks) or b"", response)
        return None
    on_first_token()  # From here on no other engine may answer.
    await response.open(answer.status, kind)
    stream.watch()
    try:
        count = await _pass_on(engine, stream, pieces, dialect, response, most_tokens)
        answer.leave()
        return count
    finally:
        stream.close()


async def _first_of_answer(stream: EventStream, dialect: Dialect) -> list[bytes]:
    """The first events of which one comes from the model, behind those that came before it, each
    as it came: together they may be megabytes. None where there are no such."""
    opening, size, events = list[bytes](), 0, await stream.first()
    while dialect.only_opens(events) and not stream.torn:
        opening.append(events)
        size += len(events)
        if size > _LONGEST_OPENING:
            return []
        events = await stream.first()
        if not events:
            return []
    if not events:
        return []
    return [events] if dialect.begins_with_error(events) else [*opening, events]


async def _refused_in(engine: EngineClient, error: bytes, response: ClientResponse) -> None:
    """The first event is an error: the client's answer, or raises EngineError."""
    status = error_status(error)
    failure = refusal(engine.name, status, None, error)
    if failure is not None:
        raise failure
    await response.give(EngineAnswer(status, "application/json", error))


async def _pass_on(
    engine: EngineClient,
    stream: EventStream,
    pieces: list[bytes],
    dialect: Dialect,
    response: ClientResponse,
    most_tokens: int,
) -> int:
    """Every event from the first on; returns how many tokens they have. Raises EngineError where
    the end of the answer is missing."""
    broken = done = False
    count = told = 0
    while len(pieces) > 1:  # Taken out: they are not held for as long as the answer takes.
        await response.write(pieces.pop(0))
        await asyncio.sleep(0)
    events = pieces.pop()
    while events and not stream.torn:
        marks = events if b"\r" not in events else events.replace(b"\r\n", b"\n")
        count += dialect.tokens_in(marks)
        counts = counts_told(marks)
        told = max(told, counts.answer or 0)
        response.prompt_told = max(response.prompt_told, counts.prompt)
        done = done or dialect.is_done(marks)
        error = dialect.error_in(marks)
        if error is not None:
            broken = True
            response.note_failure(error_message(error))
        if done and stream.whole:
            break  # What is complete is told so at once: nothing follows.
        await response.write(events)
        events = await stream.next()
    if not broken and (stream.torn or not done):
        raise EngineError(f"{engine.name} ended its answer without saying that it is complete")
    if not broken:
        response.succeed()
    await response.finish(events if done else b"")
    # A completion's last event says but that it is the last.
    return max(count - (done and not dialect.named), min(told, most_tokens))


async def _read(engine: EngineClient, answer: Answer) -> bytes:
    try:
        content = await answer.read()
    except CONNECTION_ERRORS as error:
        failure = engine_error(engine.name, error)
        raise type(failure)(f"{engine.name} broke off: {failure}") from error
    engine.hear()
    return content
