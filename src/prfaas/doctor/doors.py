"""Who may ask a gateway."""

from __future__ import annotations

from collections.abc import Iterator

from prfaas.core.deployment import Deployment
from prfaas.doctor.finding import Finding


def check_doors(deployment: Deployment) -> Iterator[Finding]:
    """Of gateways that other machines reach."""
    for gateway in deployment.gateways:
        if gateway.asks_nobody is not None:
            yield Finding(
                f"door of {gateway.name}",
                "warning",
                gateway.asks_nobody,
                "give it api_keys_file, or tenants; nothing, where a proxy before it asks for keys",
            )
