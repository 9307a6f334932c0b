"""Who is not reached is told of in the system's words."""

from __future__ import annotations

import aiohttp
import pytest

from prfaas.process.failures import in_words


async def _said(url: str) -> str:
    async with aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.ClientError) as caught:
            await http.get(url)
    return in_words(caught.value)


async def test_nobody_listens() -> None:
    assert await _said("http://127.0.0.1:9/") == "Connection refused"


async def test_no_such_name() -> None:
    said = await _said("http://no-such-name.invalid/")
    assert "ssl:" not in said
    assert "name" in said.lower()


def test_what_has_no_words_gets_some() -> None:
    assert in_words(TimeoutError()) == "no answer in time"
    assert in_words(aiohttp.ClientPayloadError()) == "ClientPayloadError"
    assert in_words(aiohttp.ServerDisconnectedError()) == "Server disconnected"
