"""The pool's way to the KV link and back: effects become calls, callbacks become events."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from prfaas.agent.driver import PoolDriver
from prfaas.core.errors import LinkError
from prfaas.link.api import (
    Link,
    OutgoingTransfer,
    Refusal,
    TransferKey,
    TransferOffer,
)
from prfaas.pool.effects import (
    AbandonReception,
    AcceptOffer,
    CancelSend,
    ForgetSend,
    RefuseOffer,
    SendSlot,
    StartSend,
)
from prfaas.pool.events import (
    ExtentReleased,
    OfferReceived,
    OfferWithdrawn,
    RangeStored,
    ReceptionFailed,
    SendCompleted,
    SendFailed,
    SendProgressed,
    TransferReceived,
)
from prfaas.pool.placement import flat_extents


class LinkMemory:
    """`Reception` of `link.api`: the slots of an accepted offer. They stay the link's until it has
    reported the transfer's end, so this needs no lock."""

    def __init__(self, arena: memoryview, slots: Sequence[int], slot_bytes: int) -> None:
        self._arena, self._slots, self._slot_bytes = arena, slots, slot_bytes

    def views(self, flat_offset: int, length: int) -> Sequence[memoryview]:
        """See `link.api.Reception`. Raises ValueError or IndexError outside the slots."""
        extents = flat_extents(self._slots, self._slot_bytes, flat_offset, length)
        return [self._arena[at : at + part] for _, at, part in extents]


class LinkPort:
    """The link's `TransferSink` (called from link threads). Everything else: event loop only."""

    def __init__(self, driver: PoolDriver, arena: memoryview, slot_bytes: int) -> None:
        self._driver, self._arena, self._slot_bytes = driver, arena, slot_bytes
        self._outgoing: dict[TransferKey, OutgoingTransfer] = {}

    def connect(self, link: Link) -> None:
        """Carry out the pool's effects with this link from now on."""
        self._link = link
        carry_out = self._driver.carry_out
        carry_out(StartSend, self._start)
        carry_out(SendSlot, self._send)
        carry_out(CancelSend, self._cancel)
        carry_out(ForgetSend, self._forget)
        carry_out(AbandonReception, lambda effect: link.abandon(effect.key, effect.reason))

    def report_progress(self, transfer_id: str | None = None) -> None:
        """Tell the pool what receivers have stored, of one transfer or of all."""
        for key, outgoing in list(self._outgoing.items()):
            if transfer_id is None or key.transfer_id == transfer_id:
                self._driver.handle(SendProgressed(key, outgoing.acknowledged_bytes))

    # from link threads

    def offered(self, peer: str, offer: TransferOffer) -> LinkMemory | Refusal:
        """See `link.api.TransferSink`."""
        match self._driver.ask(OfferReceived(peer, offer)):
            case AcceptOffer(_, slots):
                return LinkMemory(self._arena, slots, self._slot_bytes)
            case RefuseOffer(_, reason, retry):
                return Refusal(reason, retry=retry)

    def stored(self, key: TransferKey, flat_offset: int, length: int) -> None:
        """See `link.api.TransferSink`. Once per chunk."""
        self._driver.report(RangeStored(key, flat_offset, length))

    def completed(self, key: TransferKey) -> None:
        """See `link.api.TransferSink`."""
        self._driver.report(TransferReceived(key))

    def failed(self, key: TransferKey, reason: str) -> None:
        """See `link.api.TransferSink`."""
        self._driver.report(ReceptionFailed(key, reason))

    def withdrawn(self, key: TransferKey, reason: str) -> None:
        """See `link.api.TransferSink`."""
        self._driver.report(OfferWithdrawn(key, reason))

    # effects

    def _start(self, effect: StartSend) -> None:
        key, report = effect.offer.key, self._driver.report
        try:
            self._outgoing[key] = self._link.send(
                effect.peer,
                effect.offer,
                on_complete=partial(report, SendCompleted(key)),
                on_failed=lambda reason: report(SendFailed(key, reason)),
            )
        except LinkError as error:
            self._driver.handle(SendFailed(key, str(error)))

    def _send(self, effect: SendSlot) -> None:
        released = partial(self._driver.report, ExtentReleased(effect.key, effect.slot))
        outgoing = self._outgoing.get(effect.key)
        for flat, at, length in effect.extents:
            if outgoing is None:  # it could not be started
                released()
            else:
                outgoing.add(flat, self._arena[at : at + length], released)

    def _cancel(self, effect: CancelSend) -> None:
        outgoing = self._outgoing.get(effect.key)
        if outgoing is not None:
            outgoing.cancel(effect.reason)

    def _forget(self, effect: ForgetSend) -> None:
        outgoing = self._outgoing.pop(effect.key, None)
        if outgoing is not None:
            self._driver.handle(SendProgressed(effect.key, outgoing.acknowledged_bytes))
