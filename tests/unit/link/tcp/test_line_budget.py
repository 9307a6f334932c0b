"""A line's rate, shared by real links: what is granted, by the senders' own telemetry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from prfaas.link.api import TransferKey, TransferOffer
from prfaas.link.protocol.line_share import Demand, Grant
from prfaas.link.tcp.config import PeerConfig, Plaintext, SharedLine, TcpLinkConfig
from prfaas.link.tcp.line_budget import LineBudget
from prfaas.link.tcp.link import TcpLink
from prfaas.testing.link_kit import MemorySink
from prfaas.testing.waiting import until

RATE = 2_000_000.0
SENDERS = ("e1", "e2", "e3", "e4")
LINE = SharedLine(rate_bytes_per_s=RATE, senders=SENDERS, receivers=("west",))


@pytest.fixture
def receiver() -> Iterator[TcpLink]:
    config = TcpLinkConfig(name="west", security=Plaintext(), lines=(LINE,))
    link = TcpLink(config, MemorySink())
    yield link
    link.close()


@pytest.fixture
def senders(receiver: TcpLink) -> Iterator[dict[str, TcpLink]]:
    peer = PeerConfig(address=receiver.address, rate_bytes_per_s=RATE)
    links = {
        name: TcpLink(
            TcpLinkConfig(name=name, security=Plaintext(), peers={"west": peer}, lines=(LINE,)),
            MemorySink(),
        )
        for name in SENDERS
    }
    yield links
    for link in links.values():
        link.close()


def granted(links: Sequence[TcpLink]) -> list[float]:
    """What each is paced to."""
    return [state.limit_bytes_per_s or 0.0 for link in links for state in link.states()]


def push(link: TcpLink, name: str) -> None:
    size = 64 * 1024 * 1024
    offer = TransferOffer(TransferKey(name, 0, 1), "layout", 0, 256, size, 600.0)
    handle = link.send("west", offer, on_complete=lambda: None, on_failed=lambda _: None)
    handle.add(0, memoryview(bytearray(size)), lambda: None)


def test_one_alone_has_nearly_all_and_gives_it_back(senders: dict[str, TcpLink]) -> None:
    links = list(senders.values())
    push(senders["e1"], "a")
    until(lambda: granted(links)[0] >= 0.96 * RATE)
    push(senders["e2"], "b")
    until(lambda: all(0.45 * RATE <= limit <= 0.5 * RATE for limit in granted(links)[:2]))


def test_what_a_dead_sender_had_goes_to_the_others(senders: dict[str, TcpLink]) -> None:
    links = list(senders.values())
    for name, link in senders.items():
        push(link, name)
    until(lambda: all(limit == RATE / 4 for limit in granted(links)))
    senders["e4"].close()
    until(lambda: all(0.32 * RATE <= limit <= RATE / 3 for limit in granted(links)[:3]))


def test_without_the_divider_each_has_its_fair_share(
    senders: dict[str, TcpLink], receiver: TcpLink
) -> None:
    links = list(senders.values())
    push(senders["e1"], "a")
    until(lambda: granted(links)[0] >= 0.96 * RATE)
    receiver.close()
    until(lambda: all(limit == RATE / 4 for limit in granted(links)))


class Waiting:
    """A link with a queue."""

    open_connections, queued_bytes = 1, 1_000_000

    def wake_idle(self, at_most: int = 64) -> None:
        pass


def test_a_divider_that_grants_nothing_is_asked_on() -> None:
    def nobody(demand: Demand, *, now: float) -> None:
        pytest.fail("another agent divides it")

    budget = LineBudget(LINE, "e1", ask=nobody, now=0.0)
    budget.join("west", Waiting())
    budget.opened(now=0.0)
    budget.granted(Grant(7, 1, 10_000_000, 0, 0), now=10.0)
    budget.tick(now=10.5)
    assert budget.word("west", now=10.5) is not None
    assert budget.limit(now=20.0) > 0
    assert budget.part("west", now=20.0) > 0
    assert budget.ready_at(now=20.0) == 20.0
