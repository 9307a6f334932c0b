"""Answers of others, who may be anybody by now: read as a whole, and bounded."""

from __future__ import annotations

import aiohttp

from prfaas.core.errors import EngineError


async def read_at_most(response: aiohttp.ClientResponse, most: int) -> bytes:
    """The body. Raises EngineError for one of more than ``most`` bytes, whether it ends or not."""
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > most:
            raise EngineError(f"an answer of more than {most} bytes")
    return bytes(body)
