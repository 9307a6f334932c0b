"""What running gateways say of engines, on their ``/metrics``."""

from __future__ import annotations

import aiohttp

from prfaas.core.deployment import Deployment, GatewayConfig
from prfaas.tls.agents import Trust


async def metrics_pages(
    http: aiohttp.ClientSession, deployment: Deployment, trust: Trust
) -> list[str | None]:
    """One of each gateway and worker, which the caller has started; None of one that shows it to
    operators alone, and takes nobody here for one. Raises aiohttp.ClientError, TimeoutError."""
    pages = list[str | None]()
    for gateway in deployment.gateways:
        for url in (f"{base}/metrics" for base in gateway.own_urls):
            headers, trusted = operator_headers(gateway), trust.of_own(url)
            async with http.get(url, headers=headers, ssl=trusted) as response:
                pages.append(await response.text() if response.status == 200 else None)
    return pages


def operator_headers(gateway: GatewayConfig) -> dict[str, str]:
    """What shows a gateway on this machine that an operator asks. A door of TLS is asked at no name
    of its certificate, and so is shown no key."""
    if gateway.admin is None and gateway.tls is not None:
        return {}
    key = gateway.operators_key()
    return {} if key is None else {"Authorization": f"Bearer {key}"}


def unused_engines(metrics: str, deployment: Deployment) -> list[str]:
    """Engines that the gateway gives no work, by its ``/metrics``. It may be ready all the same:
    others stand in."""
    names = [e.name for e in deployment.engines]
    return [n for n in names if f'prfaas_gateway_engine_up{{engine="{n}"}} 1.0' not in metrics]


def knows(metrics: str, engine: str) -> bool:
    """Whether the gateway still has to do with it, up or not."""
    return f'prfaas_gateway_engine_up{{engine="{engine}"}}' in metrics
