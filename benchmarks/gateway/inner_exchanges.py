"""What the mock engines' own answers to one hand-off take, one after the other and with nobody
between: the time that no gateway which hands over can be below."""

from __future__ import annotations

import json
import random
import string
import time
from typing import Any

import aiohttp

_PATH = "/v1/completions"


async def added_s(engines: dict[str, str], tokens: int, count: int) -> list[float]:
    """Of ``count`` prompts, what tokenising, prefill and an answer to ids take more than an answer
    to the text."""
    async with aiohttp.ClientSession() as session:
        return [await _added_s(session, engines, tokens, number) for number in range(count)]


async def _added_s(
    session: aiohttp.ClientSession, engines: dict[str, str], tokens: int, number: int
) -> float:
    text = "".join(random.choices(string.ascii_letters, k=tokens))
    asked = {"model": "mock-model", "stream": True, "max_tokens": 5}
    alone_s, _ = await _first_s(session, engines["d1"] + _PATH, {**asked, "prompt": text})
    rendered_s, content = await _whole_s(
        session, engines["d1"] + _PATH + "/render", {**asked, "prompt": text}
    )
    ids = json.loads(content)[0]["token_ids"]
    export = {
        "prfaas": "export", "transfer_id": f"alone-{tokens}-{number}", "destination": "west-agent",
        "from_token": 0, "to_token": tokens - 1, "readers": [], "deadline_s": 10,
    }  # fmt: skip
    body = {"model": "mock-model", "prompt": ids, "max_tokens": 1, "kv_transfer_params": export}
    prefilled_s, _ = await _whole_s(session, engines["e1"] + _PATH, body)
    answered_s, _ = await _first_s(session, engines["d1"] + _PATH, {**asked, "prompt": ids})
    return rendered_s + prefilled_s + answered_s - alone_s


async def _first_s(session: aiohttp.ClientSession, url: str, body: Any) -> tuple[float, bytes]:
    """Seconds to the first byte, and the first bytes."""
    data = json.dumps(body).encode()
    began = time.perf_counter()
    async with session.post(url, data=data, headers=_JSON) as response:
        first = await response.content.readany()
        seconds = time.perf_counter() - began
        await response.read()
    return seconds, first


async def _whole_s(session: aiohttp.ClientSession, url: str, body: Any) -> tuple[float, bytes]:
    """Seconds to the last byte, and all bytes."""
    data = json.dumps(body).encode()
    began = time.perf_counter()
    async with session.post(url, data=data, headers=_JSON) as response:
        content = await response.read()
    return time.perf_counter() - began, content


_JSON = {"Content-Type": "application/json"}
