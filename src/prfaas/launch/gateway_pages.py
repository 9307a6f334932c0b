"""What running gateways say of engines, on their ``/metrics``."""

from __future__ import annotations

import aiohttp

from prfaas.core.deployment import Deployment
from prfaas.tls.agents import Trust


async def metrics_pages(
    http: aiohttp.ClientSession, deployment: Deployment, trust: Trust
) -> list[str]:
    """One of each gateway and worker, which the caller has started. Raises aiohttp.ClientError,
    TimeoutError."""
    pages = []
    for url in (url for gateway in deployment.gateways for url in gateway.own_urls):
        async with http.get(f"{url}/metrics", ssl=trust.of_own(f"{url}/metrics")) as response:
            pages.append(await response.text())
    return pages


def unused_engines(metrics: str, deployment: Deployment) -> list[str]:
    """Engines that the gateway gives no work, by its ``/metrics``. It may be ready all the same:
    others stand in."""
    names = [e.name for e in deployment.engines]
    return [n for n in names if f'prfaas_gateway_engine_up{{engine="{n}"}} 1.0' not in metrics]


def knows(metrics: str, engine: str) -> bool:
    """Whether the gateway still has to do with it, up or not."""
    return f'prfaas_gateway_engine_up{{engine="{engine}"}}' in metrics
