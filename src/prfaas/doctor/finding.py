"""What a check found."""

from __future__ import annotations

from typing import Literal

import msgspec

Level = Literal["ok", "note", "warning", "error"]
"""``note``: good to know; ``warning``: it works, but not as well or not for long; ``error``: the
deployment would not work."""


class Finding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``advice``: what to do, empty where nothing needs doing."""

    check: str
    level: Level
    found: str
    advice: str = ""


def ok(check: str, found: str) -> Finding:
    """A finding that asks for nothing."""
    return Finding(check, "ok", found)
