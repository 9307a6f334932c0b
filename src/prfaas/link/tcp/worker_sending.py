"""In a link worker: one outgoing connection. Writes what it is ordered to, straight from the arena,
and passes on what the peer replies."""

from __future__ import annotations

import select
from collections.abc import Iterator

from prfaas.core.errors import LinkError
from prfaas.link.protocol.frames import with_digest
from prfaas.link.tcp.channel import Carrier
from prfaas.link.tcp.shared_memory import SharedMemory
from prfaas.link.tcp.worker_messages import Extent, Order, Pipe, Progress

_INPUT_BYTES = 4096


def carry(channel: Carrier, pipe: Pipe[Order], memory: SharedMemory) -> None:
    """Until the agent ends it. Raises LinkError or OSError where the connection does."""
    poll = select.poll()
    poll.register(pipe.fileno(), select.POLLIN)
    buffer = memoryview(bytearray(_INPUT_BYTES))
    pending: list[memoryview] = []
    mask = 0
    while True:
        wanted = select.POLLIN | (select.POLLOUT if pending else 0)
        if wanted != mask:
            poll.register(channel.fileno(), wanted)
            mask = wanted
        poll.poll()
        if not pending:
            order = pipe.receive()
            if order is not None:
                pending = list(_views(order.items, memory))
            elif pipe.ended:
                return
        elif _ended(pipe):
            return
        had = bool(pending)
        while pending:
            count = channel.send(pending)
            if count is None:
                break
            _cut(pending, count)
        count = channel.recv_into(buffer)
        if count == 0:
            raise LinkError("closed by the peer")
        written = had and not pending
        if written or count:
            pipe.send(Progress(written, bytes(buffer[: count or 0])))
        while count == _INPUT_BYTES:  # TLS may hold more, of which no descriptor tells
            count = channel.recv_into(buffer)
            if count:
                pipe.send(Progress(written=False, input=bytes(buffer[:count])))


def _views(items: list[bytes | Extent], memory: SharedMemory) -> Iterator[memoryview]:
    header = b""
    for item in items:
        if isinstance(item, bytes):
            if header:
                yield memoryview(header)
            header = item
        else:
            payload = memory.part(*item)
            yield memoryview(with_digest(header, payload))
            header = b""
            yield payload
    if header:
        yield memoryview(header)


def _ended(pipe: Pipe[Order]) -> bool:
    """While an order is carried out no other comes: only the end."""
    pipe.receive()
    return pipe.ended


def _cut(views: list[memoryview], count: int) -> None:
    done = 0
    while done < len(views) and count >= len(views[done]):
        count -= len(views[done])
        done += 1
    del views[:done]
    if count:
        views[0] = views[0][count:]
