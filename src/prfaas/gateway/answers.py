"""Relaying a decode engine's answer to the client, byte for byte.

Nothing goes out before the engine's first bytes are here, so an engine that fails before its first
token can be replaced unseen. An answer that is not streamed goes out when it is complete.
"""

from __future__ import annotations

from collections.abc import Callable

import aiohttp

from prfaas.core.errors import EngineError
from prfaas.gateway.engine_client import (
    CONNECTION_ERRORS,
    EngineAnswer,
    EngineClient,
    describe,
    error_message,
)
from prfaas.gateway.exchange import Exchange

_ERROR_EVENT = b'data: {"error"'


class AnswerBroke(EngineError):
    """The engine failed, refused for reasons of its own, or broke off."""


async def relay(
    engine: EngineClient, exchange: Exchange, body: bytes, *, on_first_token: Callable[[], None]
) -> None:
    """Have the engine answer and pass the answer on.

    A refusal of the request itself (4xx) is the client's answer too. Raises AnswerBroke or
    ClientGone.
    """
    try:
        answer = await engine.open_answer(exchange.body.endpoint, body, exchange.engine_headers)
    except EngineError as error:
        raise AnswerBroke(str(error)) from error
    try:
        kind = answer.headers.get("Content-Type", "application/json")
        if answer.status == 200 and kind.startswith("text/event-stream"):
            await _stream(engine, answer, exchange, kind, on_first_token)
        else:
            body = await _read(engine, answer)
            if answer.status >= 500:
                what = error_message(body)
                raise AnswerBroke(f"{engine.name} answered {answer.status}: {what}")
            on_first_token()
            exchange.give(EngineAnswer(answer.status, kind, body))
    finally:
        answer.close()


async def _stream(
    engine: EngineClient,
    answer: aiohttp.ClientResponse,
    exchange: Exchange,
    kind: str,
    on_first_token: Callable[[], None],
) -> None:
    chunk = await _next(engine, answer)
    if chunk.startswith(_ERROR_EVENT):
        event = chunk.removeprefix(b"data: ").partition(b"\n")[0]
        raise AnswerBroke(f"{engine.name}: {error_message(event)}")
    if not chunk:
        raise AnswerBroke(f"{engine.name} ended the stream before its first token")
    await exchange.open(answer.status, kind)
    on_first_token()
    broken = False
    while chunk:
        broken = broken or _ERROR_EVENT in chunk
        await exchange.write(chunk)
        chunk = await _next(engine, answer)
    if not broken:
        exchange.succeed()
    await exchange.finish()


async def _next(engine: EngineClient, answer: aiohttp.ClientResponse) -> bytes:
    """The next bytes; empty at the end. Raises AnswerBroke."""
    try:
        return await answer.content.readany()
    except CONNECTION_ERRORS as error:
        raise AnswerBroke(f"{engine.name} broke off: {describe(error)}") from error


async def _read(engine: EngineClient, answer: aiohttp.ClientResponse) -> bytes:
    try:
        return await answer.read()
    except CONNECTION_ERRORS as error:
        raise AnswerBroke(f"{engine.name} broke off: {describe(error)}") from error
