"""An incoming connection that a link worker reads: the thread that keeps the books of it."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence

from prfaas.core.errors import CallerError, LinkError, PeerError
from prfaas.link.protocol.frames import Frame, Header, Hello, Kind, reason
from prfaas.link.protocol.receiving_connection import PayloadReader, ReceivingConnection
from prfaas.link.tcp.receiving_thread import ConnectionOwner
from prfaas.link.tcp.remote_channel import LET_GO_S
from prfaas.link.tcp.serving_loop import Turns
from prfaas.link.tcp.shared_memory import SharedMemory
from prfaas.link.tcp.waiting import Wakeup
from prfaas.link.tcp.worker import Worker
from prfaas.link.tcp.worker_messages import (
    MOST_INLINE_BYTES,
    Answer,
    Ended,
    Extent,
    FromConnection,
    Heard,
    HeardFrame,
    Pipe,
)

log = logging.getLogger(__name__)

_ARRIVED = Header(Kind.DATA, 0, 0, 0, 0, 0)


class Targets:
    """Where payload goes, as the worker is to be told; ``taken`` forgets it."""

    def __init__(self, memory: SharedMemory) -> None:
        self._memory = memory
        self._target: list[Extent] | None = None

    def into(self, views: Sequence[memoryview]) -> None:
        """See `PayloadReader`. What is not in the arena (a link test's) is read and verified."""
        try:
            self._target = [self._memory.extent(view) for view in views]
        except CallerError:
            self._target = [(-1, sum(map(len, views)))]

    def discard(self) -> None:
        """See `PayloadReader`."""
        self._target = []

    def answer(self, output: bytes) -> Answer | None:
        """What the worker is to be told now, once."""
        target, self._target = self._target, None
        if not output and target is None:
            return None
        return Answer(output, target)


class RemoteReceivingThread(threading.Thread):
    """Serves one connection until it ends. ``gone``: as of `RemoteChannel`. Raises PeerError for a
    connection that may not be."""

    def __init__(
        self,
        owner: ConnectionOwner,
        pipe: Pipe[FromConnection],
        hello: Hello,
        gone: Callable[[bool], None],
        worker: Worker,
    ) -> None:
        super().__init__(name=f"kv-link-in-{hello.name}-{hello.connection}", daemon=True)
        self._owner, self._pipe, self._gone = owner, pipe, gone
        self._loop, self.surplus = worker.loop, worker.gives_up
        self._targets = Targets(worker.memory)
        self._wakeup = Wakeup()
        self._stopping = False
        self._turn_of = 0
        """The thread whose turn it is in, if any."""
        try:
            payloads: PayloadReader = self._targets
            self.connection: ReceivingConnection = owner.connected(hello, self._wake, payloads)
        except PeerError:
            self._wakeup.close()
            raise

    def stop(self) -> None:
        """Close the connection and end; join afterwards."""
        self._stopping = True
        self._wakeup.set()

    def hang_up(self) -> None:
        """Nothing: its worker reads it, and is ended where it does not let go."""

    def run(self) -> None:
        """Serve the connection until it ends or `stop`."""
        error: Exception | None = None
        try:
            self._loop.serve(self._turns(), self._pipe.fileno(), self._wakeup)
        except (OSError, PeerError, LinkError) as problem:
            error = problem
        except Exception as problem:
            error = problem
            log.exception("a fault of ours on a connection from %s", self.connection.peer)
        finally:
            # Nobody may write where it was receiving before this is over.
            self._pipe.end()
            let_go = self._pipe.wait_for_end(LET_GO_S)
            self._gone(let_go)
            self._pipe.close()
            self.connection.closed(now=time.monotonic())
            self._owner.disconnected(self, error)
            self._wakeup.close()

    def _turns(self) -> Turns:
        pipe, connection = self._pipe, self.connection
        while True:
            self._turn_of = 0
            readable = yield math.inf
            self._turn_of = threading.get_ident()
            if self._stopping or connection.severed:
                break
            match pipe.receive() if readable else None:
                case Heard(items):
                    self._heard(items)
                case Ended(why, peer):
                    if why:
                        raise (PeerError if peer else LinkError)(why)
                    return
                case None if pipe.ended:
                    raise LinkError("its link worker has died")
                case None:
                    pass
                case _:
                    raise LinkError("a link worker speaks of sending on a connection that receives")
            self._answer()
            self._owner.deliver_events()
            self._answer()
        self._answer()

    def _heard(self, items: list[HeardFrame | bool]) -> None:
        now = time.monotonic()
        try:
            for item in items:
                if isinstance(item, bool):
                    frame = Frame(_ARRIVED, intact=item)
                else:
                    header = Header(*item[:6])
                    frame = Frame(header, item[6], data_follows=header.kind is Kind.DATA)
                self.connection.heard(frame, now=now)
        except PeerError as error:
            self._pipe.send(Answer(reason(Kind.REJECT, str(error))))
            raise

    def _answer(self) -> None:
        connection = self.connection
        output = connection.take_output() if connection.output_bytes else b""
        while len(output) > 2 * MOST_INLINE_BYTES:
            self._pipe.send(Answer(output[:MOST_INLINE_BYTES]))
            output = output[MOST_INLINE_BYTES:]
        answer = self._targets.answer(output)
        if answer is not None:
            self._pipe.send(answer)

    def _wake(self) -> None:
        # In its own turn it looks at the output anyway before the turn ends.
        if threading.get_ident() != self._turn_of:
            self._wakeup.set()
