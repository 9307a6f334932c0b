"""Quantities as people write them, and the plain SI numbers the code computes with.

Inside the product a size is an ``int`` of bytes, a rate a ``float`` of bytes per second, a
duration a ``float`` of seconds, a length an ``int`` of tokens. Only this module knows suffixes.
A bare number is refused where a unit could be mistaken (rates, sizes, durations).
"""

from __future__ import annotations

import re

from prfaas.core.errors import ConfigError

KIB, MIB, GIB = 1024, 1024**2, 1024**3

_NUMBER = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z/]*)\s*$")

_BYTES = {
    "B": 1,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": 1024**4,
}  # fmt: skip
_RATES = {
    "bit/s": 1 / 8, "kbit/s": 1e3 / 8, "Mbit/s": 1e6 / 8, "Gbit/s": 1e9 / 8, "Tbit/s": 1e12 / 8,
    "bps": 1 / 8, "Kbps": 1e3 / 8, "Mbps": 1e6 / 8, "Gbps": 1e9 / 8, "Tbps": 1e12 / 8,
    "B/s": 1.0, "KB/s": 1e3, "MB/s": 1e6, "GB/s": 1e9,
    "KiB/s": float(KIB), "MiB/s": float(MIB), "GiB/s": float(GIB),
}  # fmt: skip
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_TOKENS = {"": 1, "K": 1024, "M": 1024**2}
_MOST, _LEAST = 2.0**62, 1e-9
"""Whatever the unit: what is beyond, or next to nothing, is a slip, and sums and quotients of it
are no numbers."""


def _parse(text: str, units: dict[str, float] | dict[str, int], what: str, example: str) -> float:
    match = _NUMBER.match(text)
    if match is None:
        raise ConfigError(
            f"{what} {text!r} is not a number with a unit; write for example {example}"
        )
    number, unit = match.groups()
    if unit not in units:
        known = ", ".join(u for u in units if u)
        found = f"unit {unit!r}" if unit else "no unit"
        raise ConfigError(f"{what} {text!r} has {found}; use one of {known}, for example {example}")
    value = float(number) * units[unit]
    if value > _MOST or 0 < value < _LEAST:
        how = "more" if value > _MOST else "less"
        raise ConfigError(f"{what} {text!r} is {how} than can be computed with")
    return value


def parse_bytes(text: str) -> int:
    """``"64 MiB"`` to bytes. Raises ConfigError for a missing or unknown unit."""
    return round(_parse(text, _BYTES, "size", "'64 MiB'"))


def parse_rate(text: str) -> float:
    """``"200 Mbit/s"`` or ``"100 Gbps"`` to bytes per second. Raises ConfigError."""
    return _parse(text, _RATES, "rate", "'200 Mbit/s'")


def parse_duration(text: str) -> float:
    """``"30 ms"`` to seconds. Raises ConfigError."""
    return _parse(text, _SECONDS, "duration", "'30 ms'")


def parse_tokens(text: str | int) -> int:
    """``"32K"`` (K = 1024, as in the paper) or ``32768`` to tokens. Raises ConfigError."""
    return round(_parse(str(text), _TOKENS, "token count", "'32K'"))


def format_bytes(count: float) -> str:
    """Bytes for a reader, binary units: ``1.5 MiB``."""
    for unit, size in (("TiB", 1024**4), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if abs(count) >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


def format_rate(bytes_per_s: float) -> str:
    """Bytes per second for a reader, in bits as lines are sold: ``200.0 Mbit/s``."""
    bits = bytes_per_s * 8
    for unit, size in (("Tbit/s", 1e12), ("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3)):
        if abs(bits) >= size:
            return f"{bits / size:.1f} {unit}"
    return f"{bits:.0f} bit/s"


def format_duration(seconds: float) -> str:
    """Seconds for a reader: ``12 ms``, ``1.24 s``."""
    return f"{seconds:.2f} s" if abs(seconds) >= 1 else f"{seconds * 1e3:.0f} ms"


def format_count(number: int, what: str) -> str:
    """For a reader, with the noun as it goes with it: ``1 error``, ``1,200 blocks``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
