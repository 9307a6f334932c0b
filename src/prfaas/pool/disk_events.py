"""What the disk has done: see `pool.events`. It is ours: what it may not say is a bug."""

from __future__ import annotations

from prfaas.link.api import TransferKey
from prfaas.pool.event import Event
from prfaas.pool.kept import KeptPrefix


class SpillFound(Event, frozen=True, gc=False):
    """An earlier life of this agent has written this, and the file looks whole. What was used least
    recently comes first."""

    what: KeptPrefix


class SpillWritten(Event, frozen=True, gc=False):
    """A `WriteSpilled` was carried out."""

    key: TransferKey


class SpillWriteFailed(Event, frozen=True, gc=False):
    """It could not be; nothing of it is left. ``full``: the disk has no room."""

    key: TransferKey
    reason: str
    full: bool = False


class SpillRead(Event, frozen=True, gc=False):
    """A `ReadSpilled` was carried out; every checksum is right."""

    key: TransferKey


class SpillUnreadable(Event, frozen=True, gc=False):
    """It could not be, or what was read is not what was written; nobody writes to its memory any
    more."""

    key: TransferKey
    reason: str
