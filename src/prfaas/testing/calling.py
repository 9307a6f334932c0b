"""One HTTP exchange at a time with what was started here, agents that ask for a certificate too."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import msgspec

from prfaas.core.deployment import Deployment
from prfaas.tls.agents import tools_context


class Answer(msgspec.Struct):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


_AGENTS: dict[str, ssl.SSLContext] = {}
"""What agents that were started here are shown, by the beginning of their URLs."""


def trust_agents(deployment: Deployment) -> None:
    """`call` shows its agents a gateway's certificate from now on."""
    shown = tools_context(deployment)
    if shown is not None:
        _AGENTS.update((f"{agent.admin_url}/", shown) for agent in deployment.agents)


def shown_to(url: str) -> ssl.SSLContext | None:
    """What an agent that was started here is shown; None where that needs nothing."""
    return next((shown for base, shown in _AGENTS.items() if url.startswith(base)), None)


def metric(url: str, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels."""
    lines = call(f"{url}/metrics").body.decode().splitlines()
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    found = [x for x in lines if x.split("{")[0].split(" ")[0] == name]
    return sum(float(x.rsplit(" ", 1)[1]) for x in found if all(w in x for w in wanted))


def call(
    url: str,
    body: Mapping[str, Any] | None = None,
    *,
    method: str | None = None,
    headers: Mapping[str, str] = {},
    timeout_s: float = 300.0,
) -> Answer:
    """One HTTP exchange; an error status is an answer, a dead server raises OSError."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method, headers=dict(headers))
    if data is not None:
        request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=timeout_s, context=shown_to(url)) as response:
            return Answer(response.status, _lower(response.headers), response.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, _lower(error.headers), error.read())


def _lower(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
