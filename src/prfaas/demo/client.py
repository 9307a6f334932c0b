"""One streamed completion, timed where a user would time it."""

from __future__ import annotations

import time

import aiohttp
import msgspec

from prfaas.core.errors import UNREADABLE, EngineError
from prfaas.demo.script import ANSWER_TOKENS
from prfaas.process.failures import in_words


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came back. ``route`` and the lines after it are None from an engine without a gateway.

    ``kv_hidden`` is the share of the KV bytes that arrived before the prefill ended.
    """

    text: str
    token_ids: tuple[int, ...]
    ttft_s: float
    tokens_per_s: float | None
    route: str | None = None
    reason: str | None = None
    total_tokens: int | None = None
    uncached_tokens: int | None = None
    kv_bytes: int | None = None
    kv_hidden: float | None = None


class _Choice(msgspec.Struct):
    text: str = ""
    token_ids: list[int] | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    error: dict[str, object] | None = None


class _Told(msgspec.Struct, rename=lambda name: f"x-prfaas-{name.replace('_', '-')}"):
    """What the gateway says about the request in its response headers."""

    total_tokens: int | None = None
    uncached_tokens: int | None = None
    kv_bytes: int | None = None
    kv_hidden: float | None = None


async def ask(http: aiohttp.ClientSession, url: str, *, model: str, prompt: str) -> Answer:
    """Complete ``prompt`` greedily. Raises EngineError for an error answer or a broken stream."""
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": ANSWER_TOKENS,
        "temperature": 0,
        "stream": True,
        "return_token_ids": True,
    }
    sent_at = time.monotonic()
    try:
        async with http.post(f"{url}/v1/completions", json=body) as response:
            if response.status != 200:
                raise EngineError(f"{url} answered {response.status}: {await response.text()}")
            return await _read(response, sent_at)
    except (aiohttp.ClientError, TimeoutError, *UNREADABLE) as error:
        raise EngineError(f"{url} broke off: {in_words(error)}") from error


async def lead(http: aiohttp.ClientSession, url: str, *, model: str, prompt: str, at: int) -> float:
    """By how many nats an engine's best token leads its second, at place ``at`` (from 0) of its
    greedy answer. Raises EngineError for an error answer."""
    body = {"model": model, "prompt": prompt, "max_tokens": at + 1, "temperature": 0, "logprobs": 2}
    try:
        async with http.post(f"{url}/v1/completions", json=body) as response:
            if response.status != 200:
                raise EngineError(f"{url} answered {response.status}: {await response.text()}")
            answer = await response.json()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise EngineError(f"{url} broke off: {in_words(error)}") from error
    best, second, *_ = sorted(answer["choices"][0]["logprobs"]["top_logprobs"][at].values())[::-1]
    return float(best - second)


async def _read(response: aiohttp.ClientResponse, sent_at: float) -> Answer:
    text: list[str] = []
    token_ids: list[int] = []
    first_at = last_at = sent_at
    async for line in response.content:
        data = line.removeprefix(b"data:").strip()
        if not data or data == b"[DONE]":
            continue
        chunk = msgspec.json.decode(data, type=_Chunk)
        if chunk.error is not None:
            raise EngineError(f"the stream ended with an error: {chunk.error}")
        for choice in chunk.choices:
            last_at = time.monotonic()
            if not token_ids:
                first_at = last_at
            text.append(choice.text)
            token_ids += choice.token_ids or []
    if not token_ids:
        raise EngineError("the stream held no token")
    headers = {name.lower(): value for name, value in response.headers.items()}
    route, _, reason = headers.get("x-prfaas-route", "").partition("; reason=")
    told = msgspec.convert(headers, _Told, strict=False)
    return Answer(
        text="".join(text),
        token_ids=tuple(token_ids),
        ttft_s=first_at - sent_at,
        tokens_per_s=_rate(len(token_ids) - 1, last_at - first_at),
        route=route or None,
        reason=reason.strip('"') or None,
        total_tokens=told.total_tokens,
        uncached_tokens=told.uncached_tokens,
        kv_bytes=told.kv_bytes,
        kv_hidden=told.kv_hidden,
    )


def _rate(tokens: int, elapsed_s: float) -> float | None:
    """None where all tokens were read at once: this process was late, not the engine fast."""
    return tokens / elapsed_s if elapsed_s > 0.001 else None
