"""The KV link between two clusters, as the deployment file describes it."""

from __future__ import annotations

from typing import Annotated

import msgspec

from prfaas.core.planned import PlannedLink
from prfaas.core.units import parse_rate


class LinkConfig(PlannedLink, frozen=True, kw_only=True):
    """The KV link from one cluster to another, and how much of the line it may use.

    Everything here is of the line as a whole: the agents at its ends share it.
    """

    source: str = msgspec.field(name="from")
    target: str = msgspec.field(name="to")
    rate: str | None = None
    """Paces it; None: as fast as the line goes."""
    leave_to_others: Annotated[float, msgspec.Meta(ge=0, le=0.9)] = 0.0
    """Share of the line's measured capacity that is left unused."""
    connections: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Fixes their number, of all pairs of agents together; at most 64 a pair are used."""
    via: str | dict[str, str] | None = None
    """``host:port`` to dial instead of the target agent's address: a tunnel, a forward. Where the
    target has several machines, one for each agent by its name."""

    @property
    def rate_bytes_per_s(self) -> float | None:
        """Payload bytes per second, None: as fast as the line goes. Raises ConfigError."""
        return None if self.rate is None else parse_rate(self.rate)
