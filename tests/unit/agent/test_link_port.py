"""The way between pool and link, with a link that does only what the test says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from prfaas.agent.driver import PoolDriver
from prfaas.agent.link_port import LinkMemory, LinkPort
from prfaas.agent.no_link import NoLink
from prfaas.core.extents import Extent
from prfaas.link.api import Refusal, TransferKey, TransferOffer
from prfaas.pool.effects import AnnounceTransfer, GrantSlots, ReportFailure, StopExport
from prfaas.pool.events import ExportBegun, SlotFilled, SlotsRequested, TransferCancelled
from prfaas.testing.mock_engine_rank import MOCK_DIGEST, mock_layout
from prfaas.testing.pool_kit import COUNT, SLOT, PoolRig


@dataclass
class Outgoing:
    on_complete: Callable[[], None]
    on_failed: Callable[[str], None]
    acknowledged_bytes: int = 0
    added: list[tuple[int, bytes, Callable[[], None]]] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)

    def add(self, flat_offset: int, view: memoryview, on_released: Callable[[], None]) -> None:
        self.added.append((flat_offset, bytes(view), on_released))

    def cancel(self, reason: str) -> None:
        self.cancelled.append(reason)


class OneTransfer(NoLink):
    outgoing: Outgoing
    abandoned: list[TransferKey]

    def send(self, peer, offer, *, on_complete, on_failed):  # type: ignore[no-untyped-def]
        self.outgoing = Outgoing(on_complete, on_failed)
        return self.outgoing

    def abandon(self, key: TransferKey, reason: str) -> None:
        self.abandoned = [key]


class Rig:
    def __init__(self, link: NoLink) -> None:
        self.arena = memoryview(bytearray(SLOT * COUNT))
        # What is posted runs at once: there is one thread here.
        self.driver = PoolDriver(PoolRig().pool, post=lambda way: way(), copy=lambda *_: None)
        self.port = LinkPort(self.driver, self.arena, SLOT)
        self.port.connect(link)
        self.stopped: list[str] = []
        self.driver.carry_out(StopExport, lambda effect: self.stopped.append(effect.reason))
        for kind in (GrantSlots, AnnounceTransfer, ReportFailure):
            self.driver.carry_out(kind, lambda _: None)

    def export(self) -> None:
        self.driver.handle(ExportBegun(1, "x", "there", 0, 16, SLOT, 60.0, MOCK_DIGEST, ("b",)))
        self.driver.handle(SlotsRequested(1, 1))

    def fill(self) -> None:
        self.arena[:SLOT] = bytes(range(SLOT))
        self.driver.handle(SlotFilled(1, "x", 0, (Extent(0, 8, 8), Extent(8, 0, 8))))


def test_extents_are_sent_and_their_slot_is_free_when_all_are_released() -> None:
    rig = Rig(link := OneTransfer())
    rig.export()
    rig.fill()
    (first, second) = link.outgoing.added
    assert first[:2] == (0, bytes(range(8, 16)))
    assert second[:2] == (8, bytes(range(8)))
    first[2]()
    assert rig.driver.snapshot().slots.queued == 1
    second[2]()
    assert rig.driver.snapshot().slots.queued == 0
    link.outgoing.acknowledged_bytes = 7
    rig.port.report_progress("another")
    assert rig.driver.transfer("x", ranks=1)[0].sent.bytes_acknowledged == 0  # type: ignore[union-attr]
    rig.port.report_progress("x")
    assert rig.driver.transfer("x", ranks=1)[0].sent.bytes_acknowledged == 7  # type: ignore[union-attr]
    link.outgoing.acknowledged_bytes = SLOT
    link.outgoing.on_complete()
    assert rig.driver.transfer("x", ranks=1)[0].sent.state == "complete"  # type: ignore[union-attr]


def test_a_cancelled_export_counts_what_had_got_through() -> None:
    rig = Rig(link := OneTransfer())
    rig.export()
    rig.driver.handle(TransferCancelled("x"))
    assert link.outgoing.cancelled == ["cancelled"]
    link.outgoing.acknowledged_bytes = 3
    link.outgoing.on_failed("cancelled")
    assert rig.driver.transfer("x", ranks=1)[0].sent.bytes_acknowledged == 3  # type: ignore[union-attr]


def test_a_transfer_that_cannot_be_sent_fails_and_keeps_no_slot() -> None:
    rig = Rig(NoLink())
    rig.export()
    rig.fill()
    assert rig.stopped == ["no link to agent 'there' in the deployment"]
    assert rig.driver.snapshot().slots.queued == 0


def test_offers_get_memory_or_a_refusal() -> None:
    rig = Rig(link := OneTransfer())
    key = TransferKey("x", 0, 1)
    offered = TransferOffer(key, mock_layout().fingerprint(), 0, 16, SLOT + 4, 60.0)
    memory = rig.port.offered("there", offered)
    assert isinstance(memory, LinkMemory)
    views = memory.views(SLOT - 2, 5)
    assert [len(view) for view in views] == [2, 3]
    with pytest.raises(IndexError):
        memory.views(2 * SLOT, 1)
    again = rig.port.offered("there", offered)
    assert again == Refusal("transfer x rank 0 is here already", retry=False)
    rig.port.stored(key, 0, SLOT + 4)
    rig.driver.handle(TransferCancelled("x"))
    assert link.abandoned == [key]
    rig.port.failed(key, "abandoned")
    assert rig.driver.snapshot().slots.held == 0
    rig.port.withdrawn(TransferKey("y", 0, 1), "given up")
    assert rig.driver.transfer("y", ranks=1)[0].reason == "given up"
