"""Answers of a mock engine in the APIs whose events have names: Messages and Responses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from aiohttp import web


async def named_answer(
    request: web.Request, body: dict[str, Any], words: list[str], *, prompt_tokens: int
) -> web.StreamResponse:
    """The whole answer, or its events, as the request's path and body ask."""
    text = "".join(words)
    messages = request.path == "/v1/messages"
    whole = _message(text, prompt_tokens) if messages else _response(text, prompt_tokens)
    if not body.get("stream"):
        return web.json_response(whole)
    out = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    await out.prepare(request)
    for event in _message_events(words, whole) if messages else _response_events(words, whole):
        await out.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
    return out


def _message(text: str, prompt_tokens: int) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "mock-model",
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
        "usage": {
            "input_tokens": prompt_tokens - 8,
            "output_tokens": 5,
            "cache_read_input_tokens": 8,
        },
    }


def _message_events(words: list[str], whole: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield {"type": "message_start", "message": {**whole, "content": []}}
    block = {"type": "text", "text": ""}
    yield {"type": "content_block_start", "index": 0, "content_block": block}
    for word in words:
        delta = {"type": "text_delta", "text": word}
        yield {"type": "content_block_delta", "index": 0, "delta": delta}
    yield {"type": "content_block_stop", "index": 0}
    delta = {"stop_reason": "end_turn"}
    yield {"type": "message_delta", "delta": delta, "usage": whole["usage"]}
    yield {"type": "message_stop"}


def _response(text: str, prompt_tokens: int) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    item = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [part],
    }
    details = {"cached_tokens": 8, "cache_write_tokens": 0, "input_tokens_per_turn": []}
    usage = {
        "input_tokens": prompt_tokens,
        "input_tokens_details": details,
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt_tokens + 5,
    }
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": "mock-model",
        "status": "completed",
        "output": [item],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": usage,
    }


def _response_events(words: list[str], whole: dict[str, Any]) -> Iterator[dict[str, Any]]:
    begun = {**whole, "output": [], "status": "in_progress", "usage": None}
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    yield {"type": "response.created", "sequence_number": 0, "response": begun}
    yield {"type": "response.in_progress", "sequence_number": 1, "response": begun}
    for number, word in enumerate(words, 2):
        kind = "response.output_text.delta"
        yield {"type": kind, "sequence_number": number, "delta": word, "logprobs": [], **at}
    last = len(words) + 2
    yield {"type": "response.completed", "sequence_number": last, "response": whole}
