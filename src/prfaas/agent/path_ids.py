"""The ids in the paths of an agent's HTTP API, checked before anything is done by them."""

from __future__ import annotations

import re

from aiohttp import web

from prfaas.core.gateway_sessions import SESSION_ID
from prfaas.core.handoff import TRANSFER_ID


def transfer_id_of(request: web.Request) -> str:
    """The ``{id}`` of the path, a transfer's. Raises HTTPBadRequest."""
    return _id(request, TRANSFER_ID, "a transfer id is 1 to 64 characters of A-Z a-z 0-9 _ -")


def session_id_of(request: web.Request) -> str:
    """The ``{id}`` of the path, a gateway's session. Raises HTTPBadRequest."""
    return _id(request, SESSION_ID, "a session id is 8 to 24 characters of a-z 0-9")


def _id(request: web.Request, form: re.Pattern[str], rule: str) -> str:
    found = request.match_info["id"]
    if not form.match(found):
        raise web.HTTPBadRequest(text=rule)
    return found
