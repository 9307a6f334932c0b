"""Test data without end over a link: what `link_test` and an agent's own measurement send.

The far end is any agent: a transfer whose layout is `LINK_TEST_LAYOUT` is received, verified and
forgotten by the link itself, so neither its arena nor its engines notice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType

from prfaas.core.errors import LinkError
from prfaas.link.api import Link, TransferKey, TransferOffer
from prfaas.link.tcp.link_test_memory import LINK_TEST_LAYOUT

_BLOCK_BYTES = 4 * 1024 * 1024
_QUEUED_BLOCKS = 32
"""128 MiB wait to be sent: 100 ms of a line of 10 Gbit/s."""
_MARK_EVERY_S = 0.1
_LASTS_S = 30.0
"""The transfer's deadline beyond the time that is measured."""

Mark = tuple[float, int]
"""When, in seconds of the monotonic clock, and how many bytes were acknowledged by then."""


class LinkTestStream:
    """Keeps a transfer without end supplied from one block of memory, from ``with`` to its end.

    ``priority``: as of a `TransferOffer`. Raises LinkError where the link knows no such peer.
    """

    def __init__(self, link: Link, peer: str, seconds: float, *, priority: int = 0) -> None:
        self._seconds = seconds
        self._block = memoryview(bytearray(range(256)) * (_BLOCK_BYTES // 256))
        self._free = threading.Semaphore(_QUEUED_BLOCKS)
        self._feeder = threading.Thread(target=self._feed, daemon=True)
        self.problem: str | None = None
        self._stop = False
        offer = TransferOffer(
            TransferKey(f"link-test-{time.time_ns()}", 0, 1),
            LINK_TEST_LAYOUT,
            0,
            1,
            2**50,
            seconds + _LASTS_S,
            priority,
        )
        self._handle = link.send(peer, offer, on_complete=lambda: None, on_failed=self._failed)

    def __enter__(self) -> LinkTestStream:
        self._feeder.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop = True
        self._handle.cancel("the test is over")
        self._free.release()
        self._feeder.join()

    def wait_for_first_bytes(
        self, within_s: float, trouble: Callable[[], str | None] = lambda: None
    ) -> None:
        """Raises LinkError with what ``trouble`` says, as soon as it says something, or when the
        time is over."""
        until = time.monotonic() + within_s
        while not self._handle.acknowledged_bytes:
            why = trouble() or self.problem
            if why is not None or time.monotonic() > until:
                raise LinkError(why or f"no byte was acknowledged within {within_s:g} s")
            time.sleep(0.01)

    def marks(self) -> Iterator[Mark]:
        """Every 100 ms, the last when the time is over: two at least. Raises LinkError where the
        transfer fails meanwhile."""
        now = time.monotonic()
        end = now + self._seconds
        yield now, self._handle.acknowledged_bytes
        while now < end:
            time.sleep(_MARK_EVERY_S)
            if self.problem is not None:
                raise LinkError(self.problem)
            now = time.monotonic()
            yield now, self._handle.acknowledged_bytes

    def _feed(self) -> None:
        offset = 0
        while not self._stop:
            self._free.acquire()
            self._handle.add(offset, self._block, self._free.release)
            offset += len(self._block)

    def _failed(self, reason: str) -> None:
        if not self._stop:
            self.problem = reason


def goodput(marks: list[Mark]) -> float:
    """Bytes per second without the first quarter, in which the connections get up to speed."""
    (start, first), (end, last) = marks[len(marks) // 4], marks[-1]
    return (last - first) / (end - start)
