"""What a process on its own node says over HTTP, to the thread that watches it."""

from __future__ import annotations

import ssl
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from urllib.error import HTTPError

from prfaas.core.deployment import Deployment
from prfaas.launch.gateway_pages import operator_headers, unused_engines

_TIMEOUT_S = 3.0


def answers(url: str, trust: ssl.SSLContext) -> bool:
    """Whether it answers 200 there."""
    try:
        _page(url, trust, {})
    except (OSError, HTTPException):  # It may die in the middle of its answer.
        return False
    return True


def unused_by(gateway: str, url: str, trust: ssl.SSLContext, own: Deployment) -> list[str] | None:
    """Engines that a gateway gives no work, by its page at ``url``: none where it shows that to
    operators alone, and takes nobody here for one; None where it does not answer."""
    headers = operator_headers(own.of_gateway(gateway).gateway)
    try:
        return unused_engines(_page(url, trust, headers), own)
    except HTTPError as error:
        return [] if error.code == 401 else None
    except (OSError, HTTPException):
        return None


def _page(url: str, trust: ssl.SSLContext, headers: Mapping[str, str]) -> str:
    asked = urllib.request.Request(url, headers=dict(headers))
    with urllib.request.urlopen(asked, timeout=_TIMEOUT_S, context=trust) as answer:
        return str(answer.read().decode())
