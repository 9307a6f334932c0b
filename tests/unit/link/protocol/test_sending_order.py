"""Whose turn it is: the urgent first, equals in turns, newcomers level with the others."""

from __future__ import annotations

from prfaas.link.protocol.sending_end import SendingEnd
from prfaas.link.protocol.sending_records import Chunk
from prfaas.testing.link_ends import accepted, quiet


def taken(end: SendingEnd, count: int) -> list[str]:
    names = []
    for _ in range(count):
        chunk, _ = end.take(1, chunk_bytes=100, now=0.0)
        assert isinstance(chunk, Chunk)
        names.append(chunk.transfer.offer.key.transfer_id)
    return names


def test_the_urgent_go_first_and_equals_take_turns() -> None:
    end = SendingEnd()
    accepted(end, "bulk", 1000, priority=9)
    assert taken(end, 2) == ["bulk", "bulk"]
    accepted(end, "a", 300)
    accepted(end, "b", 300)
    assert taken(end, 7) == ["a", "b", "a", "b", "a", "b", "bulk"]


def test_a_newcomer_gets_its_share_not_a_backlog() -> None:
    end = SendingEnd()
    accepted(end, "old", 2000)
    taken(end, 10)
    accepted(end, "new", 2000)
    assert sorted(taken(end, 6)) == ["new"] * 3 + ["old"] * 3


def test_who_had_nothing_to_send_for_a_moment_is_not_starved_by_a_newcomer() -> None:
    end = SendingEnd()
    old = accepted(end, "old", 10_000)
    taken(end, 100)
    accepted(end, "new", 2000)
    taken(end, 1)
    end.add(old, 10_000, memoryview(bytes(1000)), quiet)
    assert sorted(taken(end, 6)) == ["new"] * 3 + ["old"] * 3


def test_what_is_remembered_of_priorities_does_not_grow_with_them() -> None:
    end = SendingEnd()
    for number in range(500):
        accepted(end, f"t{number}", 100, priority=number)
    taken(end, 500)
    assert len(end._order._level) <= 64
