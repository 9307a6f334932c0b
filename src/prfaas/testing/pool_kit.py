"""A pool on a clock of the test's own, with two engine ranks connected, for tests."""

from __future__ import annotations

from prfaas.core.extents import Extent
from prfaas.core.prefixes import Prefix, PromptPrefix
from prfaas.link.api import TransferKey, TransferOffer
from prfaas.pool.effects import (
    AcceptOffer,
    AnnounceTransfer,
    Answer,
    AnyEffect,
    GrantSlots,
    HandedOver,
    RefuseOffer,
    ReportFailure,
    ReportLapse,
    ServeLeases,
    StartSend,
)
from prfaas.pool.events import (
    AnyEvent,
    EngineConnected,
    ExportBegun,
    ImportOpened,
    LeasesCameDue,
    OfferReceived,
    SlotFilled,
    SlotsRequested,
    TimePassed,
)
from prfaas.pool.pool import Pool
from prfaas.pool.records import TransferView
from prfaas.testing.mock_engine_rank import MOCK_DIGEST as DIGEST
from prfaas.testing.mock_engine_rank import READERS, mock_layout

SLOT, COUNT, EXPORT = 16, 10, 4
_REPORTS = AnnounceTransfer | ReportFailure | ReportLapse | HandedOver


def under_own_names(told: PromptPrefix) -> Prefix:
    """What a pool has of it where names need not be secret."""
    return Prefix(told.block_tokens, told.from_token, told.parent, told.digests)


class PoolRig:
    """``say`` leaves out what is only said for the log and for those who wait, and has leases
    served at once."""

    def __init__(self) -> None:
        self.pool = Pool(
            "here",
            slot_bytes=SLOT,
            slot_count=COUNT,
            export_slots=EXPORT,
            engines=frozenset({"a", "b"}),
        )
        self.now = 0.0
        self.epoch = 100
        self.say(EngineConnected(1, "a", 11, mock_layout()))
        self.say(EngineConnected(2, "b", 12, mock_layout()))

    def say(self, event: AnyEvent) -> list[AnyEffect]:
        effects = self.pool.handle(event, now=self.now)
        if ServeLeases() in effects:
            effects.remove(ServeLeases())
            effects += self.pool.handle(LeasesCameDue(), now=self.now)
        return [e for e in effects if not isinstance(e, _REPORTS)]

    def at(self, now: float) -> list[AnyEffect]:
        self.now = now
        return self.say(TimePassed())

    def begin(
        self, name: str, size: int, *, to: str = "here", by: int = 1, deadline_s: float = 60.0
    ) -> list[AnyEffect]:
        return self.say(ExportBegun(by, name, to, 0, 16, size, deadline_s, DIGEST, READERS))

    def send(self, name: str, size: int) -> TransferKey:
        """Begin an export to another agent."""
        (start,) = self.begin(name, size, to="there")
        assert isinstance(start, StartSend)
        return start.offer.key

    def lease(self, by: int = 1) -> int:
        (grant,) = self.say(SlotsRequested(by, 1))
        assert isinstance(grant, GrantSlots)
        return grant.slots[0]

    def fill(
        self, name: str, *ranges: tuple[int, int], at: int = 0, by: int = 1
    ) -> list[AnyEffect]:
        """Lease a slot and hand it over; ``ranges`` are (flat offset, length), one after another
        from ``at`` in the slot."""
        slot = self.lease(by)
        position = slot * SLOT + at
        extents = []
        for flat, length in ranges:
            extents.append(Extent(flat, position, length))
            position += length
        return self.say(SlotFilled(by, name, slot, tuple(extents)))

    def offer(self, name: str, size: int, *, deadline_s: float = 60.0) -> Answer:
        self.epoch += 1
        key = TransferKey(name, 0, self.epoch)
        offer = TransferOffer(
            key,
            mock_layout().fingerprint(),
            0,
            16,
            size,
            deadline_s,
            prompt_digest=DIGEST,
            readers=READERS,
        )
        (answer,) = [e for e in self.say(OfferReceived("there", offer)) if isinstance(e, Answer)]
        return answer

    def accepted(self, name: str, size: int, *, deadline_s: float = 60.0) -> TransferKey:
        answer = self.offer(name, size, deadline_s=deadline_s)
        assert isinstance(answer, AcceptOffer)
        return answer.key

    def refused(self, name: str, size: int) -> RefuseOffer:
        answer = self.offer(name, size)
        assert isinstance(answer, RefuseOffer)
        return answer

    def open(self, name: str, size: int, *, by: int = 2) -> list[AnyEffect]:
        return self.say(ImportOpened(by, name, 0, 16, size, DIGEST))

    def view(self, name: str) -> TransferView:
        return self.pool.transfer(name, ranks=1)[0]
