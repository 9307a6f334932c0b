"""The model that a body names."""

from __future__ import annotations

import msgspec

from prfaas.core.errors import UNREADABLE
from prfaas.gateway.openai_errors import RequestRefused


class _Named(msgspec.Struct):
    model: str | None = None


def model_named_in(body: bytes) -> str | None:
    """The ``model`` of a request body. Raises RequestRefused (400)."""
    try:
        return msgspec.json.decode(body, type=_Named).model
    except UNREADABLE as error:
        raise RequestRefused(400, f"the body is not a JSON object: {error}") from error
