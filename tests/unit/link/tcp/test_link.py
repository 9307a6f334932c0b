"""Two real endpoints on this machine."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator

import pytest

from prfaas.core.errors import CallerError, LinkError
from prfaas.link.api import Refusal, TransferKey, TransferOffer
from prfaas.link.tcp.config import PeerConfig, Plaintext, TcpLinkConfig
from prfaas.link.tcp.link import TcpLink
from prfaas.link.tcp.sending_driver import SendingDriver
from prfaas.testing.link_kit import MemorySink

MIB = 1024 * 1024


class Sender:
    """A link to one receiver, and what became of its transfers."""

    def __init__(self, address: str, **peer: object) -> None:
        config = TcpLinkConfig(
            name="east",
            security=Plaintext(),
            peers={"west": PeerConfig(address=address, **peer)},  # type: ignore[arg-type]
        )
        self.link = TcpLink(config, MemorySink())
        self.released = threading.Semaphore(0)

    def send(
        self, name: str, data: bytes, *, deadline_s: float = 20.0, only: int | None = None
    ) -> tuple[TransferKey, Outcome, object]:
        key = TransferKey(name, 0, 1)
        outcome = Outcome()
        offer = TransferOffer(key, "layout", 0, 256, len(data), deadline_s)
        handle = self.link.send(
            "west", offer, on_complete=lambda: outcome.set("complete"), on_failed=outcome.set
        )
        handle.add(0, memoryview(data)[:only], self.released.release)
        return key, outcome, handle


class Outcome:
    def __init__(self) -> None:
        self.said: list[str] = []
        self._event = threading.Event()

    def set(self, what: str) -> None:
        self.said.append(what)
        self._event.set()

    def wait(self) -> str:
        assert self._event.wait(60), "no outcome"
        return self.said[0]


@pytest.fixture
def sink() -> MemorySink:
    return MemorySink()


@pytest.fixture
def receiver(sink: MemorySink) -> Iterator[TcpLink]:
    link = TcpLink(TcpLinkConfig(name="west", security=Plaintext()), sink)
    yield link
    link.close()


@pytest.fixture
def sender(receiver: TcpLink) -> Iterator[Sender]:
    made = Sender(receiver.address, connections=3)
    yield made
    made.link.close()


def test_moves_bytes_and_counts_them_once(sender: Sender, sink: MemorySink) -> None:
    data = random.Random(1).randbytes(5 * MIB + 17)
    key, outcome, handle = sender.send("t", data)
    assert sink.outcome(key) == "complete"
    assert outcome.wait() == "complete"
    assert sink.receptions[key].data == data
    assert sum(length for _, _, length in sink.stored_ranges) == len(data)
    assert handle.acknowledged_bytes == len(data)  # type: ignore[attr-defined]
    assert sender.released.acquire(timeout=60)
    assert sink.peers == ["east"]
    assert sender.link.states()[0].acknowledged_bytes_total == len(data)


def test_ipv6_works_like_ipv4(sink: MemorySink) -> None:
    config = TcpLinkConfig(name="west", security=Plaintext(), listen="[::1]:0")
    west = TcpLink(config, sink)
    assert west.address.startswith("[::1]:")
    sender = Sender(west.address)
    key, outcome, _ = sender.send("t", b"x" * 1000)
    assert outcome.wait() == sink.outcome(key) == "complete"
    sender.link.close()
    west.close()


def test_an_empty_transfer_completes(sender: Sender, sink: MemorySink) -> None:
    key, outcome, _ = sender.send("empty", b"")
    assert outcome.wait() == sink.outcome(key) == "complete"


def test_offers_again_while_the_receiver_has_no_room(sender: Sender, sink: MemorySink) -> None:
    sink.answers = [Refusal("no slot is free", retry=True)] * 2
    key, outcome, _ = sender.send("t", b"x" * 1000)
    assert outcome.wait() == "complete"
    assert len(sink.peers) == 3
    assert sink.outcome(key) == "complete"


def test_a_transfer_given_up_before_it_was_accepted_is_told(
    sender: Sender, sink: MemorySink
) -> None:
    sink.answers = [Refusal("no slot is free", retry=True)] * 1000
    key, outcome, _ = sender.send("t", b"x" * 1000, deadline_s=2.0)
    assert "deadline" in outcome.wait()
    assert sink.outcome(key).startswith("withdrawn: deadline")


def test_a_refusal_for_good_fails_the_transfer(sender: Sender, sink: MemorySink) -> None:
    sink.answers = [Refusal("layouts differ")]
    _, outcome, _ = sender.send("t", b"x" * 1000)
    assert outcome.wait() == "layouts differ"
    assert sender.released.acquire(timeout=60)


def test_cancel_tells_the_receiver_and_frees_the_memory(sender: Sender, sink: MemorySink) -> None:
    key, outcome, handle = sender.send("t", b"x" * (4 * MIB), only=MIB)
    sink.wait_stored(MIB)
    handle.cancel("client went away")  # type: ignore[attr-defined]
    assert outcome.wait() == "client went away"
    assert sink.outcome(key) == "client went away"
    assert sender.released.acquire(timeout=60)
    handle.add(MIB, memoryview(b"late"), sender.released.release)  # type: ignore[attr-defined]
    assert sender.released.acquire(timeout=60)


def test_the_receiver_can_abandon_a_transfer(
    sender: Sender, receiver: TcpLink, sink: MemorySink
) -> None:
    key, outcome, _ = sender.send("t", b"x" * (4 * MIB), only=MIB)
    sink.wait_stored(MIB)
    receiver.abandon(key, "no longer wanted")
    assert sink.outcome(key) == "no longer wanted"
    assert outcome.wait() == "no longer wanted"


def test_a_deadline_ends_both_sides(sender: Sender, sink: MemorySink) -> None:
    key, outcome, _ = sender.send("t", b"x" * (4 * MIB), deadline_s=2.0, only=MIB)
    assert "deadline" in outcome.wait()
    assert "deadline" in sink.outcome(key)


def test_a_range_outside_the_transfer_is_the_callers_fault(sender: Sender) -> None:
    _, _, handle = sender.send("t", b"x" * 100, only=10)
    with pytest.raises(CallerError, match=r"outside \[0, 100\)"):
        handle.add(91, memoryview(b"0123456789"), lambda: None)  # type: ignore[attr-defined]


def test_an_unknown_peer_is_named_with_the_known_ones(sender: Sender) -> None:
    offer = TransferOffer(TransferKey("t", 0, 1), "layout", 0, 256, 1, 1.0)
    with pytest.raises(LinkError, match="no peer 'nowhere'; known: west"):
        sender.link.send("nowhere", offer, on_complete=lambda: None, on_failed=lambda _: None)


def test_a_receiver_that_is_not_there_yet_is_found_later(sink: MemorySink) -> None:
    first = TcpLink(TcpLinkConfig(name="west", security=Plaintext()), sink)
    address = first.address
    first.close()
    sender = Sender(address)
    key, outcome, _ = sender.send("t", b"x" * 1000)
    second = TcpLink(TcpLinkConfig(name="west", security=Plaintext(), listen=address), sink)
    assert outcome.wait() == "complete"
    assert sink.outcome(key) == "complete"
    sender.link.close()
    second.close()


def test_closing_the_link_fails_what_is_open(receiver: TcpLink, sink: MemorySink) -> None:
    sender = Sender(receiver.address)
    _, outcome, _ = sender.send("t", b"x" * (4 * MIB), only=MIB)
    sink.wait_stored(MIB)
    sender.link.close()
    assert outcome.wait() == "the link is closed"
    assert sender.released.acquire(timeout=60)
    with pytest.raises(LinkError, match="closed"):
        sender.send("late", b"x")


def test_a_restarted_receiver_fails_what_it_has_forgotten(sink: MemorySink) -> None:
    first = TcpLink(TcpLinkConfig(name="west", security=Plaintext()), sink)
    sender = Sender(first.address)
    _, outcome, _ = sender.send("t", b"x" * (4 * MIB), only=MIB)
    sink.wait_stored(MIB)
    first.close()
    config = TcpLinkConfig(name="west", security=Plaintext(), listen=first.address)
    second = TcpLink(config, MemorySink())
    assert outcome.wait() in ("west has restarted", "the receiving agent shuts down")
    sender.link.close()
    second.close()


class FullSink(MemorySink):
    """Has no room, ever; ``asked`` once it has said so."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Event()

    def offered(self, peer: str, offer: TransferOffer) -> Refusal:
        self.asked.set()
        return Refusal("no slot is free", retry=True)


def test_what_a_restarted_receiver_was_only_offered_goes_to_its_successor(sink: MemorySink) -> None:
    full = FullSink()
    first = TcpLink(TcpLinkConfig(name="west", security=Plaintext()), full)
    sender = Sender(first.address)
    key, outcome, _ = sender.send("t", b"x" * 1000)
    assert full.asked.wait(60)
    first.close()
    config = TcpLinkConfig(name="west", security=Plaintext(), listen=first.address)
    second = TcpLink(config, sink)
    assert outcome.wait() == sink.outcome(key) == "complete"
    sender.link.close()
    second.close()


def test_a_fault_in_the_ticker_does_not_end_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls, again = itertools.count(1), threading.Event()

    def tick(self: SendingDriver, now: float) -> None:
        if next(calls) >= 2:
            again.set()
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(SendingDriver, "tick", tick)
    config = TcpLinkConfig(
        name="east", security=Plaintext(), peers={"west": PeerConfig(address="127.0.0.1:1")}
    )
    link = TcpLink(config, MemorySink())
    assert again.wait(60)
    link.close()
    assert "ZeroDivisionError: ours" in caplog.text
