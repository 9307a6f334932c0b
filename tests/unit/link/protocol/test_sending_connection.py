"""One connection of the sending end: what it writes together, hears in pieces, and gives up."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from prfaas.core.errors import LinkError, PeerError
from prfaas.link.protocol.frames import Kind, pack, reason, unpack
from prfaas.link.protocol.sending_connection import SendingConnection
from prfaas.link.protocol.sending_end import SendingEnd
from prfaas.testing.link_ends import accepted


def a_connection(end: SendingEnd, chunk_bytes: int) -> SendingConnection:
    return SendingConnection(
        end, 1, guard=nullcontext(), chunk_bytes=chunk_bytes, keepalive_s=5.0, now=0.0
    )


def test_small_chunks_are_written_together_and_large_ones_alone() -> None:
    end, released = SendingEnd(), list[int]()
    transfer = accepted(end, "t", 200, step=10, released=released.append)
    connection = a_connection(end, 100)
    connection.fill(now=0.0)
    assert [len(view) for view in connection.pending[1::2]] == [10] * 5, "half a chunk is enough"
    connection.sent(sum(map(len, connection.pending[:5])) + 1, now=0.0)
    assert [len(view) for view in connection.pending] == [9, 44, 10, 44, 10]
    end.cancel(transfer, "enough")
    while end.events:
        end.events.popleft()()
    assert sorted(released) == [0, 10, *range(50, 200, 10)], "three are still being written"
    connection.closed(now=0.0)
    while end.events:
        end.events.popleft()()
    assert sorted(released) == list(range(0, 200, 10))


def test_as_much_as_a_batch_is_taken_at_once() -> None:
    end = SendingEnd()
    accepted(end, "t", 1000)
    connection = a_connection(end, 100)
    connection.batch_bytes = 400
    connection.fill(now=0.0)
    assert [len(view) for view in connection.pending[1::2]] == [100] * 4


def test_replies_are_heard_in_any_portions() -> None:
    for step in (1, 7, 44, 100, 4096):
        end = SendingEnd()
        accepted(end, "t", 1000)
        connection = a_connection(end, 100)
        for _ in range(10):
            connection.fill(now=0.0)
            connection.sent(sum(map(len, connection.pending)), now=0.0)
        replies = b"".join(
            pack(Kind.ACK, handle=1, offset=offset, digest=100) for offset in range(0, 1000, 100)
        )
        for at in range(0, len(replies), step):
            part = replies[at : at + step]
            connection.get_buffer()[: len(part)] = part
            connection.received(len(part), now=0.0)
        assert end.counters.transfers_completed == 1


def test_a_peer_that_rejects_us_later_is_quoted() -> None:
    connection, words = a_connection(SendingEnd(), 1), reason(Kind.REJECT, "too many connections")
    connection.get_buffer()[: len(words)] = words
    with pytest.raises(PeerError, match="rejected: too many connections"):
        connection.received(len(words), now=0.0)


def test_a_silent_connection_is_asked_and_then_given_up() -> None:
    connection = a_connection(SendingEnd(), 1)
    connection.keep_alive(now=4.9)
    assert connection.pending == []
    for now in (5.0, 10.0):
        connection.keep_alive(now=now)
        assert unpack(connection.pending[0], max_chunk_bytes=1).kind is Kind.PING
        connection.sent(len(connection.pending[0]), now=now)
    with pytest.raises(LinkError, match="no sign of life"):
        connection.keep_alive(now=15.0)
