"""What a deployment costs, as it is written. Everything is optional; US dollars."""

from __future__ import annotations

from math import inf

import msgspec

from prfaas.core.errors import ConfigError
from prfaas.core.strict import Strict

_LEAST, _MOST = 1e-9, 1e12
"""US dollars: others are slips, and their quotients no numbers."""


class LinkPrice(Strict, frozen=True):
    """What one direction of a line costs. ``usd_per_gb`` is per 10^9 bytes sent."""

    source: str = msgspec.field(name="from")
    target: str = msgspec.field(name="to")
    usd_per_month: float = 0.0
    usd_per_gb: float = 0.0


class Prices(Strict, frozen=True):
    """What GPUs and lines cost. ``usd_per_gpu_hour``: by cluster."""

    usd_per_gpu_hour: dict[str, float] = msgspec.field(default_factory=dict)
    links: tuple[LinkPrice, ...] = ()

    def of_link(self, source: str, target: str) -> LinkPrice:
        """Free where nothing is said."""
        for price in self.links:
            if (price.source, price.target) == (source, target):
                return price
        return LinkPrice(source=source, target=target)

    def check(self, clusters: list[str], links: list[tuple[str, str]]) -> None:
        """Raises ConfigError for what is no price, or the price of nothing that is there."""
        for name, usd in self.usd_per_gpu_hour.items():
            if name not in clusters:
                raise ConfigError(
                    f"usd_per_gpu_hour: no cluster {name!r}; known: {', '.join(clusters)}"
                )
            _check(f"usd_per_gpu_hour: {name}", usd)
        for price in self.links:
            line = f"from {price.source} to {price.target}"
            if (price.source, price.target) not in links:
                raise ConfigError(f"links: there is no link {line}")
            _check(f"links: {line}: usd_per_month", price.usd_per_month)
            _check(f"links: {line}: usd_per_gb", price.usd_per_gb)


def _check(what: str, usd: float) -> None:
    if not 0 <= usd < inf:
        raise ConfigError(f"{what}: {usd:g}; write 0 or more")
    if not (usd == 0 or _LEAST <= usd <= _MOST):
        raise ConfigError(f"{what}: {usd:g}; write 0, or {_LEAST:g} to {_MOST:g}")
