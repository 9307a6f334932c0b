"""What goes wrong between the gateway and an engine or agent, and what that says."""

from __future__ import annotations

import asyncio

import aiohttp
import msgspec

from prfaas.core.errors import EngineError

CONNECTION_ERRORS = (aiohttp.ClientError, asyncio.TimeoutError, OSError)
"""All that aiohttp raises where an HTTP exchange could not be had or broke off."""


class CannotRender(EngineError):
    """The server has no render endpoint (started without ``--enable-scale-out``)."""


class AnswerBroke(EngineError):
    """The engine failed, refused for reasons of its own, or broke off."""


def describe(error: BaseException) -> str:
    """One line for a connection error, never empty."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect to {error.host}:{error.port}"
    if isinstance(error, asyncio.TimeoutError):
        return "timed out"
    return str(error) or type(error).__name__


def error_status(body: bytes) -> int:
    """The HTTP status that an engine's error body stands for; 500 where it says none."""
    try:
        code = msgspec.json.decode(body)["error"]["code"]
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
        return 500
    return code if isinstance(code, int) else 500


def error_message(body: bytes) -> str:
    """The message in an engine's error body, or the start of whatever it is."""
    try:
        found = msgspec.json.decode(body)
        return str(found["error"]["message"])
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
        return body[:200].decode(errors="replace") or "no message"
