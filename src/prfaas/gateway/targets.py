"""What of a deployment Prometheus should scrape, in the form of its HTTP service discovery."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
from aiohttp import web

from prfaas.core.addresses import parse_url
from prfaas.core.deployment import Deployment
from prfaas.gateway.access import Access
from prfaas.gateway.endpoints import resolve
from prfaas.gateway.whole_answer import json_answer


class TargetGroup(msgspec.Struct, frozen=True):
    """``targets``: ``host:port`` each. ``labels`` say what runs there and where."""

    targets: list[str]
    labels: dict[str, str]


class Targets:
    """``GET /targets``; asks for an operator's key where there are some."""

    def __init__(self, deployment: Callable[[], Deployment], access: Access) -> None:
        self._deployment, self._access = deployment, access

    def add_routes(self, app: web.Application) -> None:
        """Serve it."""
        app.router.add_get("/targets", self.show)

    async def show(self, request: web.Request) -> web.Response:
        """Agents and engines of now: whoever joins is among them at once."""
        self._access.check_operator(request)
        return json_answer(list(groups(self._deployment())))


def groups(deployment: Deployment) -> Iterator[TargetGroup]:
    """A group for each agent and each engine."""
    for cluster in resolve(deployment, source="the deployment").clusters:
        for agent in cluster.agents:
            yield _group(agent.url, kind="agent", agent=agent.name, cluster=agent.cluster,
                         machine=agent.machine)  # fmt: skip
        for engine in cluster.engines:
            yield _group(engine.url, kind="engine", engine=engine.name, cluster=engine.cluster,
                         machine=engine.machine)  # fmt: skip


def _group(url: str, **labels: str) -> TargetGroup:
    scheme = url.partition("://")[0]
    return TargetGroup([str(parse_url(url))], {"__scheme__": scheme, **labels})
