"""What verbs ask of gateways in an operator's name, and why there is no answer."""

from __future__ import annotations

import ssl
from typing import Generic, NamedTuple, TypeVar

import aiohttp
import msgspec

from prfaas.core.deployment import GatewayConfig
from prfaas.core.errors import UNREADABLE
from prfaas.process.failures import in_words

T = TypeVar("T")


class Reply(NamedTuple, Generic[T]):
    """``answer``, or ``error``: why there is none, in words. ``status``: of HTTP; 0 where nobody
    has answered."""

    answer: T | None
    error: str | None = None
    status: int = 0


class _Refusal(msgspec.Struct, frozen=True):
    class Error(msgspec.Struct, frozen=True):
        message: str

    error: Error


def operator_headers(gateway: GatewayConfig) -> dict[str, str]:
    """What shows a gateway that an operator asks: nothing where it has no operators' keys. Raises
    ConfigError for keys that cannot be read here."""
    keys = gateway.operators.read()
    return {"Authorization": f"Bearer {keys[0]}"} if keys else {}


async def ask_gateway(
    http: aiohttp.ClientSession,
    method: str,
    url: str,
    kind: type[T],
    *,
    body: bytes | None = None,
    trust: ssl.SSLContext | bool = True,
) -> Reply[T]:
    """The answer to one request, read as ``kind``. ``body``: JSON; ``trust``: see `Trust.of`."""
    headers = {} if body is None else {"Content-Type": "application/json"}
    try:
        async with http.request(method, url, data=body, headers=headers, ssl=trust) as response:
            status, content = response.status, await response.read()
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return Reply(None, f"{url} does not answer: {in_words(error)}")
    try:
        if status == 200:
            return Reply(msgspec.json.decode(content, type=kind), status=status)
        return Reply(None, msgspec.json.decode(content, type=_Refusal).error.message, status)
    except UNREADABLE:
        return Reply(None, f"{url} answered {status}, and nothing that can be read", status)
