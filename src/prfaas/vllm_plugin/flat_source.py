"""Where the bytes of a received part lie, by flat offset."""

from __future__ import annotations

import numpy as np

from prfaas.engine_socket.import_book import Extents
from prfaas.vllm_plugin.pages import Addresses, address_of


class FlatSource:
    """A part's bytes, wherever they lie in the arena. ``extents`` cover it without a gap, which
    `AgentClient` has checked."""

    def __init__(self, arena: memoryview, extents: Extents) -> None:
        self._starts = np.array([extent.flat_offset for extent in extents], dtype=np.int64)
        offsets = np.array([extent.arena_offset for extent in extents], dtype=np.int64)
        self._addresses = address_of(arena) + offsets

    def into(
        self, pages: Addresses, flat_offset: int, page_bytes: int
    ) -> tuple[Addresses, Addresses, Addresses]:
        """Sources, targets and sizes that fill ``pages``, which follow each other in flat space
        from ``flat_offset`` on: cut where a page or a piece ends."""
        end = flat_offset + len(pages) * page_bytes
        low, high = np.searchsorted(self._starts, (flat_offset, end))
        page_starts = flat_offset + page_bytes * np.arange(len(pages), dtype=np.int64)
        cuts = np.union1d(page_starts, self._starts[low:high])
        page = (cuts - flat_offset) // page_bytes
        piece = np.searchsorted(self._starts, cuts, side="right") - 1
        sources = self._addresses[piece] + cuts - self._starts[piece]
        return sources, pages[page] + cuts - page_starts[page], np.diff(cuts, append=end)
