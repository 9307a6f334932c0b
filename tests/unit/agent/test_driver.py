"""The driver: effects in order, on the loop, without the lock; views that are never torn."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

import pytest

from prfaas.agent.driver import PoolDriver
from prfaas.core.errors import EngineError
from prfaas.link.api import TransferKey, TransferOffer
from prfaas.pool.effects import AcceptOffer, AnnounceTransfer, RefuseOffer, ReportFailure
from prfaas.pool.events import (
    OfferReceived,
    RangeStored,
    SlotsRequested,
    SlotsReturned,
    TransferCancelled,
    TransferReceived,
)
from prfaas.testing.mock_engine_rank import mock_layout
from prfaas.testing.pool_kit import SLOT, PoolRig
from prfaas.testing.pool_stress import all_right, stress


class Loop:
    """The event loop's part: what was posted, run when the test says so."""

    def __init__(self) -> None:
        self.posted: deque[Callable[[], None]] = deque()
        self.now = 5.0
        self.driver = PoolDriver(
            PoolRig().pool,
            post=self.posted.append,
            copy=lambda *_: None,
            monotonic=lambda: self.now,
            unix_time=lambda: 1005.0,
        )
        self.announced: list[str] = []
        self.driver.carry_out(AnnounceTransfer, lambda e: self.announced.append(e.transfer_id))

    def run(self) -> None:
        while self.posted:
            self.posted.popleft()()


def offer(name: str, size: int = SLOT, epoch: int = 1) -> OfferReceived:
    key = TransferKey(name, 0, epoch)
    return OfferReceived("w", TransferOffer(key, mock_layout().fingerprint(), 0, 16, size, 9.0))


def test_what_other_threads_report_is_carried_out_by_the_loop_in_order() -> None:
    loop = Loop()
    for number in range(3):
        loop.driver.report(TransferCancelled(f"t{number}"))
    assert loop.announced == []
    assert len(loop.posted) == 1, "the loop is woken once"
    loop.driver.handle(TransferCancelled("t3"))
    assert loop.announced == ["t0", "t1", "t2", "t3"]
    loop.run()
    loop.driver.report(TransferCancelled("t4"))
    loop.run()
    assert loop.announced[-1] == "t4"


def test_an_offer_is_answered_at_once() -> None:
    loop = Loop()
    assert isinstance(loop.driver.ask(offer("x")), AcceptOffer)
    assert isinstance(loop.driver.ask(offer("x", epoch=2)), RefuseOffer)
    loop.run()
    assert loop.announced == ["x"]


def test_a_peer_whose_offers_are_refused_does_not_fill_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop = Loop()
    for number in range(1000):
        assert isinstance(loop.driver.ask(offer(f"x{number}", size=0)), RefuseOffer)
        loop.run()
    assert len(caplog.records) == 100
    loop.now += 1.0
    loop.driver.ask(offer("last", size=0))
    loop.run()
    left_out, last = caplog.records[100:]
    assert "900 more transfers failed in a second" in left_out.getMessage()
    assert "transfer=last" in last.getMessage()


def test_what_an_effect_leads_to_queues_behind_it() -> None:
    loop = Loop()
    order: list[str] = []

    def announce(effect: AnnounceTransfer) -> None:
        order.append(f"begin {effect.transfer_id}")
        if effect.transfer_id == "first":
            loop.driver.handle(TransferCancelled("second"))
        order.append(f"end {effect.transfer_id}")

    loop.driver.carry_out(AnnounceTransfer, announce)
    loop.driver.handle(TransferCancelled("first"))
    assert order == ["begin first", "end first", "begin second", "end second"]


def test_effects_are_carried_out_without_the_lock() -> None:
    """As the link does: it calls us from another thread while we call it."""
    loop = Loop()

    def announce(effect: AnnounceTransfer) -> None:
        if effect.transfer_id == "outer":
            thread = threading.Thread(target=loop.driver.report, args=(TransferCancelled("in"),))
            thread.start()
            thread.join(timeout=10)
            assert not thread.is_alive(), "the lock is held while an effect is carried out"
        loop.announced.append(effect.transfer_id)

    loop.driver.carry_out(AnnounceTransfer, announce)
    loop.driver.handle(TransferCancelled("outer"))
    assert loop.announced == ["outer", "in"]


def test_an_effect_that_fails_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop()

    def fail(effect: AnnounceTransfer) -> None:
        loop.announced.append(effect.transfer_id)
        raise ZeroDivisionError("ours")

    loop.driver.carry_out(AnnounceTransfer, fail)
    loop.driver.report(TransferCancelled("a"))
    loop.driver.report(TransferCancelled("b"))
    loop.run()
    assert loop.announced == ["a", "b"]
    assert caplog.text.count("ZeroDivisionError: ours") == 2


def test_a_breach_of_the_rules_reaches_who_spoke_for_the_engine() -> None:
    loop = Loop()
    loop.driver.carry_out(ReportFailure, lambda _: None)
    with pytest.raises(EngineError):
        loop.driver.handle(SlotsRequested(1, 0))
    with pytest.raises(EngineError):
        loop.driver.handle(SlotsReturned(1, (0,)))


def test_times_are_shown_in_unix_seconds() -> None:
    loop = Loop()
    answer = loop.driver.ask(offer("x"))
    loop.driver.report(RangeStored(answer.key, 0, SLOT))
    loop.driver.report(TransferReceived(answer.key))
    view, over = loop.driver.transfer("x", ranks=1)
    assert over
    assert view.completed_at == 1005.0


def test_nobody_ever_sees_a_known_transfer_as_unknown() -> None:
    """A short run of the benchmark, which looks ten million times."""
    seen, wrote, _ = stress(looks=60_000, readers=2)
    assert seen.total() >= 60_000
    assert wrote > 0
    assert all_right(seen), seen
