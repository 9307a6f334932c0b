"""What to do: the only output of the pool. Frozen, in the imperative.

Effects are carried out in the order they were given, each after the lock was let go. An effect for
a connection that has ended meanwhile is dropped.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from prfaas.core.extents import Extent
from prfaas.core.handoff import RequestContext
from prfaas.core.prefixes import Prefix
from prfaas.link.api import TransferKey, TransferOffer
from prfaas.pool.kept import KeptPrefix, Tier
from prfaas.pool.placement import Copy


class Effect(msgspec.Struct, frozen=True, gc=False, tag=True):
    """Base; as JSON each carries its type's name under ``type``."""


# to an engine


class GrantSlots(Effect, frozen=True, gc=False):
    """Lend the slots to the connection that asked first."""

    connection: int
    slots: tuple[int, ...]


class StopExport(Effect, frozen=True, gc=False):
    """Tell the engine that no more of it is wanted."""

    connection: int
    transfer_id: str
    reason: str


class AnswerImport(Effect, frozen=True, gc=False):
    """The extents cover the part once, in flat order, and stay until the import is closed."""

    connection: int
    transfer_id: str
    extents: tuple[Extent, ...]
    part: int = 0


class FailImport(Effect, frozen=True, gc=False):
    """Tell the engine that it cannot read the part."""

    connection: int
    transfer_id: str
    reason: str
    part: int = 0


class CachedPart(msgspec.Struct, frozen=True, gc=False):
    """Bytes of a transfer of tokens [from_token, to_token), all of them, as they lie in the
    arena."""

    from_token: int
    to_token: int
    extents: tuple[Extent, ...]


class AnswerLoad(Effect, frozen=True, gc=False):
    """Together the parts cover what was asked for; the last to be read first. They stay until the
    load is closed."""

    connection: int
    load: int
    parts: tuple[CachedPart, ...]


class FailLoad(Effect, frozen=True, gc=False):
    """Tell the engine that it is not here, or cannot be read now."""

    connection: int
    load: int
    reason: str


# the answer to an offer, for the thread that reported it


class AcceptOffer(Effect, frozen=True, gc=False):
    """The transfer's bytes go into the slots in flat order. They are the link's until it reports
    `TransferReceived` or `ReceptionFailed`."""

    key: TransferKey
    slots: tuple[int, ...]


class RefuseOffer(Effect, frozen=True, gc=False):
    """``retry``: memory may come free soon; the sender should offer again."""

    key: TransferKey
    reason: str
    retry: bool


# to the KV link


class StartSend(Effect, frozen=True, gc=False):
    """Offer a transfer to ``peer``. Ends with `SendCompleted` or `SendFailed`."""

    peer: str
    offer: TransferOffer


class SendSlot(Effect, frozen=True, gc=False):
    """Send the slot's extents. Each is reported with `ExtentReleased` when it is read no more."""

    key: TransferKey
    slot: int
    extents: tuple[Extent, ...]


class CancelSend(Effect, frozen=True, gc=False):
    """Stop sending a transfer."""

    key: TransferKey
    reason: str


class ForgetSend(Effect, frozen=True, gc=False):
    """The link has said its last word on the transfer. Report once more how much got through."""

    key: TransferKey


class AbandonReception(Effect, frozen=True, gc=False):
    """Stop receiving. `ReceptionFailed` or `TransferReceived` still follows."""

    key: TransferKey
    reason: str


# to the driver


class ServeLeases(Effect, frozen=True, gc=False):
    """Report `LeasesCameDue` as soon as there is nothing else to do: what comes free until then is
    granted together."""


class CopySlot(Effect, frozen=True, gc=False):
    """Make these copies inside the arena, then report `SlotCopied`."""

    key: TransferKey
    slot: int
    copies: tuple[Copy, ...]


class AnnounceTransfer(Effect, frozen=True, gc=False):
    """The transfer changed state: let those who wait for it look again."""

    transfer_id: str


class AnnounceCached(Effect, frozen=True, gc=False):
    """From now on loads find this in the cache. ``layout``: fingerprint of the rank whose pages
    they are. ``stands_at``: the token from which an engine can go on; None: from every block's
    end."""

    key: TransferKey
    layout: str
    prefix: Prefix
    stands_at: int | None
    tier: Tier = "memory"
    """Where it lies. What moves is announced again."""


class AnnounceEvicted(Effect, frozen=True, gc=False):
    """Tell followers that a prefix is cached no more."""

    key: TransferKey


# to the disk


class WriteSpilled(Effect, frozen=True, gc=False):
    """Write this to disk; the extents are its bytes and stay until `SpillWritten` or
    `SpillWriteFailed` is reported."""

    what: KeptPrefix
    extents: tuple[Extent, ...]


class ReadSpilled(Effect, frozen=True, gc=False):
    """Read this back into the extents, which are whole slots in flat order, and verify it; ends
    with `SpillRead` or `SpillUnreadable`."""

    what: KeptPrefix
    extents: tuple[Extent, ...]


class DropSpilled(Effect, frozen=True, gc=False):
    """Remove its file. Comes before any `WriteSpilled` that needs the room."""

    key: TransferKey


class ReportLapse(Effect, frozen=True, gc=False):
    """Log that a gateway was silent for too long, and so many of its transfers were live."""

    session_id: str
    transfers: int


class HandedOver(Effect, frozen=True, gc=False):
    """Trace that a local hand-off of a known request is over, so long after it began."""

    offer: TransferOffer
    took_s: float
    failed: bool


class ReportFailure(Effect, frozen=True, gc=False):
    """Log what failed, of which transfer, and why. ``party``: with whom, or empty;
    ``context``: whose it is, if that is known."""

    what: Literal["offer", "export", "reception", "import", "load", "copy", "spill"]
    transfer: str
    party: str
    reason: str
    context: RequestContext | None = None


Answer = AcceptOffer | RefuseOffer
AnyEffect = (
    GrantSlots | StopExport | AnswerImport | FailImport | AcceptOffer | RefuseOffer
    | StartSend | SendSlot | CancelSend | ForgetSend | AbandonReception
    | AnswerLoad | FailLoad | AnnounceCached | AnnounceEvicted
    | WriteSpilled | ReadSpilled | DropSpilled
    | ServeLeases | CopySlot | AnnounceTransfer | ReportLapse | HandedOver | ReportFailure
)  # fmt: skip
