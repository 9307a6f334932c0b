"""`RemoteChannel`: what a link worker says of a connection, as its thread hears it."""

from __future__ import annotations

import mmap
import select
import socket
from collections.abc import Iterator

import pytest

from prfaas.core.errors import LinkError
from prfaas.link.tcp.remote_channel import RemoteChannel
from prfaas.link.tcp.serving_loop import ServingLoop
from prfaas.link.tcp.shared_memory import SharedMemory
from prfaas.link.tcp.worker_messages import (
    Ended,
    FromConnection,
    Order,
    Pipe,
    Progress,
    pipe_pair,
)

Ends = tuple[RemoteChannel, "Pipe[Order]"]


@pytest.fixture
def ends() -> Iterator[Ends]:
    ours, theirs = pipe_pair()
    worker: Pipe[Order] = Pipe(theirs, Order)
    pipe: Pipe[FromConnection] = Pipe(ours, FromConnection)
    memory = SharedMemory(-1, memoryview(mmap.mmap(-1, 4096)))
    channel = RemoteChannel(
        socket.socket(), pipe, memory, lambda _: None, ServingLoop(), lambda: False
    )
    yield channel, worker
    worker.close()
    channel.close()


def _readable(channel: RemoteChannel) -> bool:
    return bool(select.select([channel], [], [], 0)[0])


def test_looking_for_a_written_order_takes_no_reply_away_from_the_descriptor(ends: Ends) -> None:
    channel, worker = ends
    assert channel.send([memoryview(b"frame")]) is None
    assert worker.receive(wait=True) == Order([b"frame"])
    worker.send(Progress(written=True, input=b""))
    worker.send(Progress(written=False, input=b"reply"))
    buffer = memoryview(bytearray(100))
    assert channel.recv_into(buffer) is None
    assert channel.send([memoryview(b"frame")]) == 5
    assert channel.send([memoryview(b"next")]) is None
    # Nobody reads before the descriptor says so.
    assert _readable(channel)
    assert channel.recv_into(buffer) == 5
    assert bytes(buffer[:5]) == b"reply"
    assert not _readable(channel)


def test_why_it_has_ended_is_told_by_the_next_order(ends: Ends) -> None:
    channel, worker = ends
    worker.send(Ended("the peer has spoken nonsense"))
    worker.close()
    with pytest.raises(LinkError, match="nonsense"):
        channel.send([memoryview(b"frame")])
