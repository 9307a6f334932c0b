"""The producer's end of a transfer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from prfaas.core.errors import CallerError
from prfaas.link.protocol.sending_end import SendingEnd
from prfaas.link.protocol.sending_records import SendingTransfer
from prfaas.link.tcp.link_test_memory import is_link_test

_BYTES_PER_WAKE = 256 * 1024
"""So many bytes that are added wake one more connection that waits for something to send."""


class TransferOwner(Protocol):
    """What a handle asks of the driver of its peer."""

    lock: threading.Lock
    end: SendingEnd
    deliver_events: Callable[[], None]

    def wake_idle(self, at_most: int = 64) -> None: ...

    def check_memory(self, view: memoryview) -> None: ...


class TransferHandle:
    """The producer's end of a transfer (`link.api.OutgoingTransfer`)."""

    def __init__(self, driver: TransferOwner, transfer: SendingTransfer) -> None:
        self._driver, self._transfer = driver, transfer

    def add(self, flat_offset: int, view: memoryview, on_released: Callable[[], None]) -> None:
        """Queue bytes. Raises CallerError for a range outside the transfer, or for memory
        that link workers do not share."""
        view = view.cast("B")
        total = self._transfer.offer.total_bytes
        if flat_offset < 0 or flat_offset + len(view) > total:
            raise CallerError(
                f"range [{flat_offset}, {flat_offset + len(view)}) is outside [0, {total})"
            )
        if not is_link_test(self._transfer.offer):
            self._driver.check_memory(view)
        with self._driver.lock:
            self._driver.end.add(self._transfer, flat_offset, view, on_released)
        self._driver.wake_idle(1 + len(view) // _BYTES_PER_WAKE)
        self._driver.deliver_events()

    def cancel(self, reason: str) -> None:
        """Stop, and tell the receiver; nothing happens if it is over."""
        with self._driver.lock:
            self._driver.end.cancel(self._transfer, reason)
        self._driver.wake_idle(1)
        self._driver.deliver_events()

    @property
    def acknowledged_bytes(self) -> int:
        """Bytes the receiver has verified and stored, counted once."""
        return self._transfer.acknowledged_bytes
