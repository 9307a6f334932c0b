"""The lines the contenders are measured over."""

from __future__ import annotations

from dataclasses import dataclass

from prfaas.core.units import parse_duration, parse_rate
from prfaas.testing.wan import WanProfile


@dataclass(frozen=True)
class Row:
    """``profile`` None: the loopback interface."""

    name: str
    profile: WanProfile | None


def _wan(name: str, rate: str, rtt: str, loss: float = 0.0) -> Row:
    return Row(name, WanProfile(parse_rate(rate), parse_duration(rtt), loss))


ROWS = (
    Row("loopback", None),
    _wan("wan-1g-2ms", "1 Gbps", "2 ms"),
    _wan("wan-1g-30ms", "1 Gbps", "30 ms"),
    _wan("wan-3g-30ms-loss", "3 Gbps", "30 ms", 1e-5),
    _wan("wan-1g-80ms-loss", "1 Gbps", "80 ms", 1e-4),
)
QUICK_ROWS = ("loopback", "wan-1g-30ms")
