"""An outgoing connection that a link worker carries: a `Channel` to the thread that serves it."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable, Sequence

from prfaas.core.errors import CallerError, LinkError
from prfaas.link.tcp.serving_loop import ServingLoop
from prfaas.link.tcp.shared_memory import SharedMemory
from prfaas.link.tcp.worker_messages import (
    MOST_INLINE_BYTES,
    Ended,
    Extent,
    FromConnection,
    Introduced,
    NotIntroduced,
    Order,
    Pipe,
    Progress,
)

log = logging.getLogger(__name__)

LET_GO_S = 5.0
"""A worker that has not let go of a connection's memory after this is killed."""


class RemoteChannel:
    """Bytes count as written when the worker has written all of an order: until then it may read
    their memory. ``socket`` is the connection itself, for its options and the kernel's view of it;
    ``gone`` is called once the worker has let go, with False where it did not within `LET_GO_S`.
    ``surplus``: asked once when others have fewer connections, whether this one is to be made
    anew."""

    polls_writes = False

    def __init__(
        self,
        sock: socket.socket,
        pipe: Pipe[FromConnection],
        memory: SharedMemory,
        gone: Callable[[bool], None],
        loop: ServingLoop,
        surplus: Callable[[], bool],
    ) -> None:
        self.socket, self.loop, self.surplus = sock, loop, surplus
        self._pipe, self._memory, self._gone = pipe, memory, gone
        self._ordered = self._written = 0
        self._input = b""
        self._why = "its link worker has died"

    def fileno(self) -> int:
        """See `Channel`."""
        return self._pipe.fileno()

    def send(self, views: Sequence[memoryview]) -> int | None:
        """See `Channel`: all of an order, or None. Raises LinkError where it has ended."""
        if self._written:
            written, self._written, self._ordered = self._written, 0, 0
            return written
        if not self._ordered and not self._ended:
            order, self._ordered = self._order(views)
            try:
                self._pipe.send(order)
            except LinkError:
                while not self._ended:  # It may have said why.
                    self._listen()
        if self._ended:
            raise LinkError(self._why)
        return None

    def recv_into(self, view: memoryview) -> int | None:
        """See `Channel`. Raises LinkError where it has ended."""
        if not self._input:
            self._listen()
        count = min(len(self._input), len(view))
        if count:
            view[:count] = self._input[:count]
            self._input = self._input[count:]
            return count
        if self._ended:
            raise LinkError(self._why)
        return None

    def hang_up(self) -> None:
        """See `Channel`."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Returns when the worker reads the memory of what it was ordered no more."""
        self._pipe.end()
        self.hang_up()  # The worker may be waiting for the peer.
        let_go = self._pipe.wait_for_end(LET_GO_S)
        self.socket.close()
        self._pipe.close()
        self._gone(let_go)

    @property
    def _ended(self) -> bool:
        return self._pipe.ended

    def _order(self, views: Sequence[memoryview]) -> tuple[Order, int]:
        """Of the first of them, so many as one message holds; and their bytes. Frames are read-only
        and payload is not; a header stays with its payload."""
        items: list[bytes | Extent] = []
        inline = total = 0
        for view in views:
            if not view.readonly:
                items.append(self._extent(view))
            elif inline < MOST_INLINE_BYTES:
                items.append(bytes(view))
                inline += len(view)
            else:
                break
            total += len(view)
        return Order(items), total

    def _extent(self, view: memoryview) -> Extent:
        try:
            return self._memory.extent(view)
        except CallerError:  # Only a link test's may lie elsewhere (`TransferHandle.add`).
            return -1, len(view)

    def _listen(self) -> None:
        """To one message: of the next the pipe's descriptor tells. Nothing may be taken from it
        but where input is read, or replies would lie here until something else wakes the reader."""
        match self._pipe.receive():
            case Progress(written, data):
                self._written = self._ordered if written else self._written
                self._input += data
            case Ended(why):
                self._why = why
            case None:
                pass
            case Introduced() | NotIntroduced() as said:
                log.error("a link worker says %r of a connection in use", said)
            case _:
                log.error("a link worker speaks of receiving on a connection that sends")
