"""What an agent and its link workers say to each other."""

from __future__ import annotations

import os

import msgspec
import pytest

from prfaas.core.errors import LinkError
from prfaas.link.protocol.frames import HEADER_BYTES, MAX_BODY_BYTES
from prfaas.link.tcp.worker_messages import (
    MOST_INLINE_BYTES,
    Answer,
    FromConnection,
    Heard,
    Incoming,
    Order,
    Pipe,
    ToConnection,
    pipe_pair,
)


def test_messages_arrive_whole_and_in_order() -> None:
    ours, theirs = pipe_pair()
    sender: Pipe[Order] = Pipe(ours, Order)
    receiver: Pipe[Order | Answer] = Pipe(theirs, ToConnection)
    said = [Order([b"header", (5, 7)]), Answer(b"out", [(1, 2), (-1, 3)]), Answer(b"")]
    for message in said:
        sender.send(message)
    assert [receiver.receive() for _ in said] == said
    assert receiver.receive() is None
    assert not receiver.ended
    sender.close()
    assert receiver.receive() is None
    assert receiver.ended
    with pytest.raises(LinkError, match="the other end of a pipe"):
        receiver.send(Answer(b""))
    receiver.close()


def test_the_largest_message_fits() -> None:
    ours, theirs = pipe_pair()
    sender: Pipe[Order] = Pipe(ours, Order)
    receiver: Pipe[Order] = Pipe(theirs, Order)
    frame = HEADER_BYTES + MAX_BODY_BYTES
    small: list[bytes | tuple[int, int]] = [bytes(HEADER_BYTES), (2**45, 2**20)]
    for order in (
        Order([bytes(frame)] * (MOST_INLINE_BYTES // frame + 1)),
        Order(small * (MOST_INLINE_BYTES // HEADER_BYTES + 1)),
    ):
        sender.send(order)
        assert receiver.receive() == order
    sender.close()
    receiver.close()


def test_descriptors_come_with_a_message() -> None:
    ours, theirs = pipe_pair()
    sender: Pipe[Incoming] = Pipe(ours, Incoming)
    receiver: Pipe[Incoming] = Pipe(theirs, Incoming)
    read, write = os.pipe()
    sender.send(Incoming("::1", 7), [write])
    got = receiver.receive_with_fds(wait=True)
    assert got is not None
    message, (fd,) = got
    assert message == Incoming("::1", 7)
    os.write(fd, b"x")
    assert os.read(read, 1) == b"x"
    for each in (read, write, fd):
        os.close(each)
    sender.close()
    assert receiver.receive_with_fds(wait=True) is None
    receiver.close()


def test_an_end_is_waited_for_no_longer_than_said() -> None:
    ours, theirs = pipe_pair()
    agent: Pipe[Heard] = Pipe(ours, Heard)
    worker: Pipe[Order] = Pipe(theirs, Order)
    worker.send(Heard([True]))
    assert not agent.wait_for_end(0.0)
    agent.end()
    assert worker.receive() is None
    assert worker.ended
    worker.close()
    assert agent.wait_for_end(60.0)
    agent.close()


@pytest.mark.parametrize(
    "said",
    [
        ["Heard", [[17, 0, 0, 1, 2, 3, b""]]],
        ["Heard", [[8, 0, -1, 1, 2, 3, b""]]],
        ["Heard", [[8, 1 << 32, 0, 1, 2, 3, b""]]],
        ["Order", []],
        "nothing",
    ],
)
def test_what_is_no_message_ends_a_connection_in_peace(said: object) -> None:
    """What a header cannot say nobody answers; and whoever lets go waits for the end alone."""
    ours, theirs = pipe_pair()
    receiver: Pipe[Heard] = Pipe(theirs, FromConnection)
    for _ in range(2):
        ours.send(msgspec.msgpack.encode(said))
    with pytest.raises(LinkError, match="what is no message"):
        receiver.receive()
    ours.close()
    assert receiver.wait_for_end(1.0)
    receiver.close()
