"""Where the bytes of link tests go: the link itself receives, verifies and forgets them, so that
neither the agent's arena nor its engines notice (`link_test` is the sending side)."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from prfaas.link.api import TransferOffer

LINK_TEST_LAYOUT = "link-test"
"""The layout that marks a transfer as a test."""


def is_link_test(offer: TransferOffer) -> bool:
    """Is this transfer a test of the line?"""
    return offer.layout_fingerprint == LINK_TEST_LAYOUT


class ScratchMemory:
    """The `Reception` of a link test: each connection's thread reads into scratch of its own."""

    def __init__(self) -> None:
        self._scratch = threading.local()

    def views(self, flat_offset: int, length: int) -> Sequence[memoryview]:
        """The same memory for every range."""
        memory: memoryview | None = getattr(self._scratch, "memory", None)
        if memory is None or len(memory) < length:
            self._scratch.memory = memory = memoryview(bytearray(length))
        return (memory[:length],)
