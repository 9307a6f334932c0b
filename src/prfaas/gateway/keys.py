"""Who may speak to the gateway: clients by an API key, operators by a key of their own."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable

from aiohttp import web

from prfaas.gateway.openai_errors import RequestRefused


class Keys:
    """A set of secrets, exchanged while it serves. Kept as digests: they compare in one time."""

    def __init__(self, keys: Iterable[str]) -> None:
        self.replace(keys)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def replace(self, keys: Iterable[str]) -> None:
        """From the next request on these are the ones."""
        self._digests = [_digest(key) for key in keys]

    def match(self, request: web.Request) -> bool:
        """Whether the request carries one of them, as ``Authorization: Bearer KEY``."""
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        given = _digest(key.strip())
        # Every key is compared, whichever matches: the time tells nothing.
        matches = [hmac.compare_digest(given, known) for known in self._digests]
        return scheme.lower() == "bearer" and any(matches)


def check_client(request: web.Request, keys: Keys) -> None:
    """Raise RequestRefused (401) where there are keys and the request has none of them."""
    if keys and not keys.match(request):
        raise RequestRefused(
            401,
            "no valid API key: send 'Authorization: Bearer KEY' with a key of this deployment",
            kind="authentication_error",
        )


def check_operator(request: web.Request, operators: Keys, clients: Keys) -> None:
    """Raise RequestRefused (401, 403) where the request may not take engines out of service.

    Without operator keys only this machine may, and not even that where clients need keys: a proxy
    on the same machine would let them all in.
    """
    if operators:
        if not operators.match(request):
            raise RequestRefused(
                401,
                "no valid operator key: send 'Authorization: Bearer KEY' with one of "
                "gateway.operator_keys",
                kind="authentication_error",
            )
    elif clients or not _is_local(request.remote):
        raise RequestRefused(
            403,
            "only operators may do this: set gateway.operator_keys in the deployment file",
            kind="permission_error",
        )


def _is_local(address: str | None) -> bool:
    try:
        return ipaddress.ip_address((address or "").partition("%")[0]).is_loopback
    except ValueError:
        return False


def _digest(key: str) -> bytes:
    # aiohttp gives bytes that are not UTF-8 as surrogates.
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()
