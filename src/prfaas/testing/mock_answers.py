"""What a mock engine answers to completions and chat, in OpenAI's shapes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

from aiohttp import web

_CHAT = "/v1/chat/"


def whole_answer(
    path: str, model: str, words: list[str], *, choices: int, usage: dict[str, Any]
) -> dict[str, Any]:
    """An answer that is not streamed; every choice says the same."""
    text = "".join(words)
    said: dict[str, Any] = {"text": text}
    if path.startswith(_CHAT):
        said = {"message": {"role": "assistant", "content": text}}
    every = [{"index": i, **said, "finish_reason": "stop"} for i in range(choices)]
    kind = "chat.completion" if path.startswith(_CHAT) else "text_completion"
    return {**_head(kind, model), "choices": every, **usage}


def streamed_answer(
    path: str, model: str, words: list[str], usage: dict[str, Any]
) -> Iterator[bytes]:
    """The server-sent events of a streamed one, a word each."""
    chat = path.startswith(_CHAT)
    head = _head("chat.completion.chunk" if chat else "text_completion", model)
    for number, word in enumerate(words, 1):
        said: dict[str, Any] = {"text": word}
        if chat:
            said = {"delta": {"role": "assistant", "content": word}}
        ended = "stop" if number == len(words) else None
        yield _event({**head, "choices": [{"index": 0, **said, "finish_reason": ended}]})
    if usage:
        yield _event({**head, "choices": [], **usage})
    yield b"data: [DONE]\n\n"


def _head(kind: str, model: str) -> dict[str, Any]:
    return {"id": "cmpl-1", "object": kind, "created": 1, "model": model}


def _event(content: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(content)}\n\n".encode()


def hang_up(request: web.Request, raw: bytes) -> web.Response:
    """Send bytes in place of an answer."""
    transport = request.transport
    if isinstance(transport, asyncio.Transport):
        transport.write(raw)
        transport.close()
    return web.Response()
