"""What all events of the pool are."""

from __future__ import annotations

import msgspec


class Event(msgspec.Struct, frozen=True, gc=False, tag=True):
    """Base; as JSON each carries its type's name under ``type``."""
