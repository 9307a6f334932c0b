"""Which models a tenant may see and name."""

from __future__ import annotations

from typing import Any

import msgspec

from prfaas.core.errors import UNREADABLE
from prfaas.gateway.openai_errors import RequestRefused


class _Models(msgspec.Struct):
    data: list[dict[str, Any]]
    object: str = "list"


class _Named(msgspec.Struct):
    model: str | None = None


def only_models(answer: bytes, allowed: frozenset[str]) -> Any:
    """An engine's list of models without those that are not ``allowed``; empty for no list."""
    try:
        found = msgspec.json.decode(answer, type=_Models)
    except UNREADABLE:
        return _Models([])
    return _Models([model for model in found.data if model.get("id") in allowed], found.object)


def model_named_in(body: bytes) -> str | None:
    """The ``model`` of a request body. Raises RequestRefused (400)."""
    try:
        return msgspec.json.decode(body, type=_Named).model
    except UNREADABLE as error:
        raise RequestRefused(400, f"the body is not a JSON object: {error}") from error
