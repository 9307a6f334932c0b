"""Do readers of transfers ever see one that is there as unknown?

A writer begins and ends exports of transfers that have been received completely, cancels and drops
others through the agent's `PoolDriver`, so every record is touched again and again, while readers
look at those that are complete and at one that was cancelled. Every look must find what is there.
"""

from __future__ import annotations

import threading
import time
from collections import Counter

from prfaas.agent.driver import PoolDriver
from prfaas.link.api import TransferKey, TransferOffer
from prfaas.pool.effects import (
    AbandonReception,
    AcceptOffer,
    AnnounceTransfer,
    CancelSend,
    ReportFailure,
    StartSend,
)
from prfaas.pool.events import (
    EngineConnected,
    ExportAborted,
    ExportBegun,
    OfferReceived,
    RangeStored,
    TimePassed,
    TransferCancelled,
    TransferReceived,
)
from prfaas.pool.pool import Pool
from prfaas.testing.mock_engine_rank import MOCK_DIGEST, mock_layout

TRANSFERS = 64
SLOT_BYTES = 4096


class Stress:
    """One agent's pool, ``TRANSFERS`` complete transfers in it, and the count of what was seen."""

    def __init__(self) -> None:
        pool = Pool(
            "here",
            slot_bytes=SLOT_BYTES,
            slot_count=2 * TRANSFERS,
            export_slots=0,
            engines=frozenset({"a"}),
        )
        self.driver = PoolDriver(pool, post=lambda way: way(), copy=lambda *_: None)
        for kind in (AbandonReception, AnnounceTransfer, CancelSend, ReportFailure, StartSend):
            self.driver.carry_out(kind, lambda _: None)
        self._layout = mock_layout().fingerprint()
        self.driver.report(EngineConnected(1, "a", 1, mock_layout()))
        self.stop = threading.Event()
        self.seen: Counter[str] = Counter()
        self.wrote = 0
        self._epoch = 0
        self._lock = threading.Lock()
        for number in range(TRANSFERS):
            self.receive(f"lasting-{number}")
        self.driver.report(TransferCancelled("cancelled"))

    def receive(self, transfer_id: str) -> None:
        """A whole transfer arrives."""
        self._epoch += 1
        key = TransferKey(transfer_id, 0, self._epoch)
        offer = TransferOffer(key, self._layout, 0, 16, SLOT_BYTES, 86400.0)
        assert isinstance(self.driver.ask(OfferReceived("there", offer)), AcceptOffer)
        self.driver.report(RangeStored(key, 0, SLOT_BYTES))
        self.driver.report(TransferReceived(key))

    def write(self) -> None:
        """Touch every record in turn."""
        report, number = self.driver.report, 0
        while not self.stop.is_set():
            number += 1
            name, other = f"lasting-{number % TRANSFERS}", f"passing-{number}"
            report(ExportBegun(1, name, "there", 0, 16, SLOT_BYTES, 60.0, MOCK_DIGEST, ("b",)))
            report(ExportAborted(1, name, "on to the next"))
            report(TransferCancelled("cancelled"))
            self.receive(other)
            report(TransferCancelled(other))
            if number % 1000 == 0:
                report(TimePassed())
        self.wrote = number

    def look(self, looks: int) -> None:
        """Look that often and add up what was seen."""
        seen: Counter[str] = Counter()
        transfer = self.driver.transfer
        names = [f"lasting-{number}" for number in range(TRANSFERS)]
        for number in range(looks // 2):
            view, _ = transfer(names[number % TRANSFERS], ranks=1)
            seen["lasting: " + view.state] += 1
            view, _ = transfer("cancelled", ranks=1)
            seen["cancelled: " + view.state] += 1
        with self._lock:
            self.seen += seen


def stress(looks: int, readers: int) -> tuple[Counter[str], int, float]:
    """What was seen, how often writers wrote, and the seconds it took."""
    site = Stress()
    writer = threading.Thread(target=site.write)
    shares = [(looks // 2 // readers) * 2 for _ in range(readers)]
    shares[0] += looks - sum(shares) + looks % 2
    threads = [threading.Thread(target=site.look, args=(share,)) for share in shares]
    began = time.monotonic()
    writer.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    site.stop.set()
    writer.join()
    site.driver.check_integrity()
    return site.seen, site.wrote, time.monotonic() - began


def all_right(seen: Counter[str]) -> bool:
    """Whether every look found what is there."""
    return set(seen) == {"lasting: complete", "cancelled: failed"}
