"""What counts as served well, as it is written."""

from __future__ import annotations

from math import inf
from typing import Literal

from prfaas.core.errors import ConfigError
from prfaas.core.planned import Quantity
from prfaas.core.strict import Strict, naming
from prfaas.core.units import parse_duration


class Slo(Strict, frozen=True):
    """``ttft``: time to first token, which ``ttft_percentile`` percent of the requests are to meet.
    ``tpot``: time per output token; 25 ms are 40 tokens/s. It bounds the decode batch."""

    ttft: Quantity = "10 s"
    tpot: Quantity = "50 ms"
    ttft_percentile: Literal[50, 90, 99] = 90

    @property
    def ttft_s(self) -> float:
        """Raises ConfigError."""
        return parse_duration(str(self.ttft))

    @property
    def tpot_s(self) -> float:
        """Raises ConfigError."""
        return parse_duration(str(self.tpot))

    def check(self) -> None:
        """Raises ConfigError for what the types cannot say."""
        for name in ("ttft", "tpot"):
            with naming(name):
                if not 0 < parse_duration(str(getattr(self, name))) < inf:
                    raise ConfigError(f"{getattr(self, name)}; write more than 0")
