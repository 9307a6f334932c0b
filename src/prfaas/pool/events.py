"""What happened: the only input of the pool. Frozen, in the past tense.

``connection`` numbers an engine rank's connection and is never used twice. Engines may be wrong or
hostile: for what one may not say `Pool.handle` raises EngineError, and nothing has changed. The
link and the driver are ours: what they may not say is a bug (InvariantError).
"""

from __future__ import annotations

from prfaas.core.extents import Extent
from prfaas.core.gateway_sessions import Renewal
from prfaas.core.handoff import RequestContext
from prfaas.core.layout import KvLayout
from prfaas.core.prefixes import Prefix
from prfaas.link.api import TransferKey, TransferOffer
from prfaas.pool.disk_events import (
    SpillFound,
    SpillRead,
    SpillUnreadable,
    SpillWriteFailed,
    SpillWritten,
)
from prfaas.pool.event import Event

# engines


class EngineConnected(Event, frozen=True, gc=False):
    """A rank has said who it is. Refused with EngineError, for its layout with LayoutMismatch."""

    connection: int
    engine: str
    pid: int
    layout: KvLayout


class Reconfigured(Event, frozen=True, gc=False):
    """The deployment says so now. What was there before, and is not of it, stays until it goes."""

    engines: frozenset[str]
    longest_deadline_s: float


class EngineDropped(Event, frozen=True, gc=False):
    """It broke the rules and is listened to no more. It gets nothing new; what it has been lent
    stays its own until `ConnectionClosed`."""

    connection: int


class ConnectionClosed(Event, frozen=True, gc=False):
    """The rank touches nothing of the arena any more. Unknown connections are ignored."""

    connection: int


class SlotsRequested(Event, frozen=True, gc=False):
    """Answered by one `GrantSlots` of 1 to ``count`` slots, as soon as there are any."""

    connection: int
    count: int


class SlotsReturned(Event, frozen=True, gc=False):
    """Leased slots came back unfilled."""

    connection: int
    slots: tuple[int, ...]


class ExportBegun(Event, frozen=True, gc=False):
    """A rank will hand over ``total_bytes`` for agent ``destination`` (perhaps this one), within
    ``deadline_s`` seconds, for engines ``readers`` and prompts of this digest alone. Answered, at
    most once, by `StopExport`."""

    connection: int
    transfer_id: str
    destination: str
    from_token: int
    to_token: int
    total_bytes: int
    deadline_s: float
    prompt_digest: str
    readers: tuple[str, ...]
    priority: int = 0
    context: RequestContext | None = None


class SlotFilled(Event, frozen=True, gc=False):
    """A leased slot was handed over. Of an export that is over the slot is free again at once."""

    connection: int
    transfer_id: str
    slot: int
    extents: tuple[Extent, ...]


class ExportFinished(Event, frozen=True, gc=False):
    """The engine has handed over every byte, it says. Comes after a fresh `SendProgressed`."""

    connection: int
    transfer_id: str


class ExportAborted(Event, frozen=True, gc=False):
    """The engine will not complete the export. Too late if it is complete already."""

    connection: int
    transfer_id: str
    reason: str


class ImportOpened(Event, frozen=True, gc=False):
    """A rank wants to read what the sender's rank ``part`` sends, for a prompt of this digest, as
    bytes of a layout with this fingerprint (None: its own). Answered by one `AnswerImport` or
    `FailImport`, in order per connection and part, unless the connection ends first."""

    connection: int
    transfer_id: str
    from_token: int
    to_token: int
    total_bytes: int
    prompt_digest: str
    part: int = 0
    layout_fingerprint: str | None = None


class ImportClosed(Event, frozen=True, gc=False):
    """It reads no more, or waits no more: what is unanswered is answered with `FailImport`."""

    connection: int
    transfer_id: str
    part: int = 0


class TransferDescribed(Event, frozen=True, gc=False):
    """A rank says what a transfer is of that it exports, or has read: worth keeping when it is
    over. Refused with EngineError where that makes no sense."""

    connection: int
    transfer_id: str
    prefix: Prefix


class LoadOpened(Event, frozen=True, gc=False):
    """A rank wants to read a cached prefix of ``to_token`` tokens, of which it has the first
    ``local_tokens``. ``names``: of the prefix after each block, as it computed them. ``load`` is a
    number of its own. Answered at once by one `AnswerLoad` or `FailLoad`."""

    connection: int
    load: int
    local_tokens: int
    to_token: int
    block_tokens: int
    names: tuple[bytes, ...]
    layout_fingerprint: str | None = None
    """Of the rank as whose pages it reads them (None: its own)."""


class LoadClosed(Event, frozen=True, gc=False):
    """It reads that no more. Unknown loads are ignored."""

    connection: int
    load: int


# gateways, about copies of what is cached


class CopyRequested(Event, frozen=True, gc=False):
    """Send what is cached of a transfer, every rank's part, to agent ``destination`` as transfer
    ``copy_id``. How it goes is told like an export's."""

    transfer_id: str
    copy_id: str
    destination: str
    deadline_s: float
    priority: int = 0


class PrefixPinned(Event, frozen=True, gc=False):
    """What is cached of a transfer, every rank's part, is to stay, with all that it stands on.
    Refused with CapacityError."""

    transfer_id: str


class PrefixUnpinned(Event, frozen=True, gc=False):
    """A pinned prefix may go again. Unknown ones are ignored."""

    transfer_id: str


class CopyAwaited(Event, frozen=True, gc=False):
    """Another agent will send what it has cached of ``prefix``. Comes before its offer."""

    copy_id: str
    prefix: Prefix
    deadline_s: float


# the KV link, receiving


class OfferReceived(Event, frozen=True, gc=False):
    """Answered at once by one `AcceptOffer` or `RefuseOffer`."""

    peer: str
    offer: TransferOffer


class RangeStored(Event, frozen=True, gc=False):
    """A range arrived and its checksum is right; once per range."""

    key: TransferKey
    flat_offset: int
    length: int


class TransferReceived(Event, frozen=True, gc=False):
    """Every byte was stored; the link writes no more."""

    key: TransferKey


class ReceptionFailed(Event, frozen=True, gc=False):
    """The link gave up an accepted transfer and writes no more."""

    key: TransferKey
    reason: str


class OfferWithdrawn(Event, frozen=True, gc=False):
    """The sender gave up a transfer that was not accepted."""

    key: TransferKey
    reason: str


# the KV link, sending


class SendProgressed(Event, frozen=True, gc=False):
    """So much of a transfer the receiver has stored by now. Late news does no harm."""

    key: TransferKey
    acknowledged_bytes: int


class SendCompleted(Event, frozen=True, gc=False):
    """The receiver has every byte."""

    key: TransferKey


class SendFailed(Event, frozen=True, gc=False):
    """The link sends no more of the transfer, for whatever reason; also after `CancelSend`."""

    key: TransferKey
    reason: str


class ExtentReleased(Event, frozen=True, gc=False):
    """The link reads one extent of a `SendSlot` no more; comes once for each."""

    key: TransferKey
    slot: int


# the driver


class SlotCopied(Event, frozen=True, gc=False):
    """A `CopySlot` was carried out."""

    key: TransferKey
    slot: int


class NamesChanged(Event, frozen=True, gc=False):
    """Prefixes are named with another cache key: nobody asks by names of before again."""


class LeasesCameDue(Event, frozen=True, gc=False):
    """A `ServeLeases` was carried out."""


class TransferCancelled(Event, frozen=True, gc=False):
    """The gateway needs the transfer no more, or never will."""

    transfer_id: str


class GatewayRenewed(Event, frozen=True, gc=False):
    """A gateway lives and says what it has outstanding here. Refused with CapacityError."""

    session_id: str
    renewal: Renewal


class GatewayEnded(Event, frozen=True, gc=False):
    """A gateway ends: nobody needs its transfers any more."""

    session_id: str


class TimePassed(Event, frozen=True, gc=False):
    """A look at deadlines and stalls is due; every `agent.service` sweep. Comes after a fresh
    `SendProgressed` of every transfer."""


AnyEvent = (
    Reconfigured | EngineConnected | EngineDropped | ConnectionClosed | SlotsRequested | ExportBegun
    | SlotsReturned | SlotFilled | ExportFinished | ExportAborted | ImportOpened | ImportClosed
    | TransferDescribed | LoadOpened | LoadClosed | CopyRequested | CopyAwaited | PrefixPinned
    | PrefixUnpinned | OfferReceived | RangeStored | TransferReceived | ReceptionFailed
    | OfferWithdrawn | SendProgressed | SendCompleted | SendFailed | ExtentReleased | SpillFound
    | SpillWritten | SpillWriteFailed | SpillRead | SpillUnreadable | SlotCopied | NamesChanged
    | LeasesCameDue | TransferCancelled | GatewayRenewed | GatewayEnded | TimePassed
)  # fmt: skip
