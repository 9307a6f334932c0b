"""What tests ask of a gateway over mock engines, and what is right."""

from __future__ import annotations

import json
from typing import Any

import aiohttp

from prfaas.testing.mock_engine import expected_words

COMPLETIONS = "/v1/completions"
SHORT = "abc"
"""A prompt below every threshold."""


def answer_to(prompt: str) -> str:
    """What mock engines answer to a prompt, whoever of them does."""
    return "".join(expected_words(list(prompt.encode())))


async def ask(
    client: aiohttp.ClientSession, prompt: Any = SHORT, key: str = "", **body: Any
) -> tuple[aiohttp.ClientResponse, bytes]:
    """One completion, read to its end. ``key``: an API key; ``body``: more fields."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    send = {"prompt": prompt, **body}
    async with client.post(COMPLETIONS, json=send, headers=headers) as response:
        return response, await response.read()


def text_of(content: bytes) -> str:
    """The text of a completion's first choice."""
    return str(json.loads(content)["choices"][0]["text"])
