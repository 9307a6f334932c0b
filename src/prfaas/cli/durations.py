"""Times that options are given."""

from __future__ import annotations

from prfaas.core.errors import CallerError
from prfaas.core.units import parse_duration


def more_than_none(option: str, text: str) -> float:
    """Seconds. Raises CallerError for 0, ConfigError for what is no time."""
    seconds = parse_duration(text)
    if seconds <= 0:
        raise CallerError(f"{option} {text}: write more than 0, for example '2 s'")
    return seconds
