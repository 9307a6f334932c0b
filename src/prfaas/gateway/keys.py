"""Who may speak to the gateway: clients by an API key, operators by a key of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from aiohttp import web

from prfaas.core.addresses import is_everywhere, parse_url, stays_here
from prfaas.core.errors import ConfigError
from prfaas.gateway.api_errors import RequestRefused

_PROXYS = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via")


class Keys:
    """A set of secrets, exchanged while it serves. Kept as digests: they compare in one time."""

    def __init__(self, keys: Iterable[str]) -> None:
        self.replace(keys)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def replace(self, keys: Iterable[str]) -> None:
        """From the next request on these are the ones."""
        self._digests = {key_digest(key) for key in keys}

    def match(self, request: web.Request) -> bool:
        """Whether the request carries one of them, as ``Authorization: Bearer KEY``."""
        # By digest: how long the search takes tells nothing of the keys that there are.
        return key_digest(bearer_key(request.headers.get("Authorization", ""))) in self._digests


def bearer_key(authorization: str) -> str:
    """The key of an ``Authorization`` header; empty where it has none."""
    scheme, _, key = authorization.partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def key_shown(request: web.Request) -> str:
    """The key of a request: as ``Authorization: Bearer KEY``, or as Anthropic's clients show it."""
    given = bearer_key(request.headers.get("Authorization", ""))
    return given or request.headers.get("X-Api-Key", "").strip()


def key_digest(key: str) -> bytes:
    """By which keys are told apart, and kept."""
    # aiohttp gives bytes that are not UTF-8 as surrogates.
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()


def is_operator(request: web.Request, operators: Keys, *, clients: bool) -> bool:
    """Whether the request may see and do what operators may; see `check_operator`."""
    if operators:
        return operators.match(request)
    return not clients and _is_local(request)


def check_operator(request: web.Request, operators: Keys, *, clients: bool) -> None:
    """Raise RequestRefused (401, 403) where the request may not take engines out of service.

    Without operator keys only this machine may, and not even that where ``clients`` need keys: a
    proxy on the same machine would let them all in. Nor may a web page of another origin, which a
    browser on this machine shows.
    """
    if operators:
        if not operators.match(request):
            raise RequestRefused(
                401,
                "no valid operator key: send 'Authorization: Bearer KEY' with one of "
                "gateway.operator_keys",
                kind="authentication_error",
                cause="operator",
            )
    elif clients or not _is_local(request):
        raise RequestRefused(
            403,
            "only operators may do this: set gateway.operator_keys in the deployment file",
            kind="permission_error",
            cause="operator",
        )


def _is_local(request: web.Request) -> bool:
    """Whether somebody on this machine has sent it, who calls it by a name of this machine: a page
    whose name was made to lead here does not, and one of another origin names that."""
    if not stays_here((request.remote or "").partition("%")[0]):
        return False
    if any(name in request.headers for name in _PROXYS):
        return False  # A proxy on this machine passes on what others have sent.
    try:
        host = parse_url(f"http://{request.host}").host
        origin = request.headers.get("Origin")
        # What is bound on every interface is dialled so from its own machine alone.
        here = stays_here(host) or is_everywhere(host)
        return (
            here
            and "@" not in request.host
            and origin in (None, f"{request.scheme}://{request.host}")
        )
    except ConfigError:
        return False
