"""Who is pushed out for whom, on a clock of the test's own."""

from __future__ import annotations

import pytest

from prfaas.core.addresses import network_of
from prfaas.process.connections import Connection, Connections


class Book:
    def __init__(self, most: int = 16) -> None:
        self.book = Connections(most=most, stranger_s=10.0, idle_s=75.0)
        self.dropped: list[str] = []

    def came(self, address: str, name: str, now: float = 0.0) -> Connection:
        connection = self.book.came(address, now)
        connection.drop = lambda: self.dropped.append(name)
        return connection


def test_the_newcomer_of_a_network_with_many_pushes_out_its_own() -> None:
    book = Book()
    book.came("10.0.0.1", "client")
    for number in range(100):
        book.came("6.6.6.6", f"hostile {number}")
    assert book.book.strangers == 16
    assert "client" not in book.dropped
    assert book.dropped[0] == "hostile 0", "the oldest goes first"


def test_from_many_networks_the_oldest_goes() -> None:
    book = Book()
    for number in range(20):
        book.came(f"10.0.0.{number}", str(number))
    assert book.dropped == ["0", "1", "2", "3"]
    assert book.book.dropped["room"] == 4


def test_whoever_has_shown_a_right_is_not_pushed_out() -> None:
    book = Book()
    busy, idle = book.came("10.0.0.1", "busy"), book.came("10.0.0.1", "idle")
    for connection in (busy, idle):
        book.book.admitted(connection)
    book.book.answered(idle, 1.0)
    for number in range(100):
        book.came(f"6.6.{number}.6", "hostile")
    assert set(book.dropped) == {"hostile"}
    assert (book.book.busy, book.book.idle, book.book.strangers) == (1, 1, 16)
    book.book.answered(busy, 2.0)
    book.book.gone(busy)
    book.book.gone(idle)
    assert (book.book.busy, book.book.idle) == (0, 0)


def test_whose_connections_that_ask_for_nothing_are_many_pays_for_more_itself() -> None:
    book = Book()

    def idle(whose: str, name: str) -> None:
        connection = book.came("10.0.0.1", name)
        book.book.admitted(connection, whose)
        book.book.answered(connection, 0.0)

    idle("alice", "alice's")
    for number in range(100):
        idle("mallory", f"mallory's {number}")
    assert book.book.idle == 16
    assert "alice's" not in book.dropped
    assert book.dropped[0] == "mallory's 0"
    idle("alice", "another of alice's")  # Of so few nobody has more than a share.
    assert book.book.idle == 16


def test_silence_has_an_end() -> None:
    book = Book()
    early, late = book.came("a", "early", 0.0), book.came("a", "late", 5.0)
    known = book.came("a", "known", 0.0)
    book.book.admitted(known)
    book.book.answered(known, 0.0)
    book.book.expire(9.9)
    assert book.dropped == []
    book.book.answered(early, 9.9)  # It has asked for /health, say.
    book.book.expire(15.0)
    assert book.dropped == ["late"]
    book.book.expire(75.0)
    assert book.dropped == ["late", "early", "known"]
    book.book.gone(late)
    book.book.answered(late, 80.0)
    assert book.book.strangers == 0, "who is gone does not come back"


def test_a_reader_that_takes_nothing_is_ended_whoever_it_is() -> None:
    book = Book()
    stuck, slow = book.came("a", "stuck"), book.came("a", "slow")
    for connection in (stuck, slow):
        book.book.admitted(connection)
    book.book.stuck(stuck, 0.0)
    book.book.stuck(stuck, 100.0)
    book.book.stuck(slow, 0.0)
    book.book.flows(slow)
    book.book.stuck(slow, 60.0)
    book.book.expire(120.0)
    assert book.dropped == ["stuck"]
    book.book.gone(stuck)
    book.book.gone(slow)
    book.book.expire(1000.0)
    assert book.dropped == ["stuck"]
    assert book.book.busy == 0


def test_a_process_without_descriptors_makes_room() -> None:
    book = Book()
    for number in range(16):
        book.came("a", str(number))
    book.book.make_room()
    assert book.dropped == ["0", "1"]


@pytest.mark.parametrize(
    ("address", "network"),
    [("10.1.2.3", "10.1.2.3"), ("2001:db8:1:2:3::4", "2001:db8:1:2::"), ("fe80::1%eth0", "fe80::"),
     ("::ffff:10.1.2.3", "10.1.2.3"), ("", "")],
)  # fmt: skip
def test_networks(address: str, network: str) -> None:
    assert network_of(address) == network
