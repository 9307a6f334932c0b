"""Files that other users of the machine need not read."""

from __future__ import annotations

import os


def for_us_alone(path: str, flags: int) -> int:
    """An ``opener``: a file that is made is its user's alone. One that is there stays as it is."""
    return os.open(path, flags, 0o600)
