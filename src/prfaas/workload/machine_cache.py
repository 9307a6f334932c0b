"""What one machine's agent has cached: in memory, and on disk.

What is cached is on disk at once, unlike live, where what memory evicts before the disk came to it
is not. What is read from disk lies in memory again, entry by entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from prfaas.workload.entry_cache import EntryCache

_PAGE_BYTES = 4096
"""A file's bytes, and its head, take whole ones."""


class MachineModel(msgspec.Struct, frozen=True):
    """A machine whose agent caches prefixes for its engines: at most so many bytes in memory and on
    disk. ``answers``: whether answers are kept as well; ``slot_bytes``: what is cached in memory
    takes a multiple of it."""

    name: str
    cluster: str
    engines: tuple[str, ...]
    cache_bytes: float
    answers: bool = False
    disk_bytes: float = 0.0
    slot_bytes: int = 0


class HeldBlocks(NamedTuple):
    """How many blocks of a prompt are held; ``in_memory``: the first of them that need not be read
    from disk."""

    blocks: int
    in_memory: int


class MachineCache:
    """What one machine's agent has cached."""

    def __init__(self, machine: MachineModel, *, block_bytes: float, state_bytes: float) -> None:
        self.memory = EntryCache(
            machine.cache_bytes,
            block_bytes=block_bytes,
            state_bytes=state_bytes,
            granule_bytes=machine.slot_bytes,
        )
        self.disk = EntryCache(
            machine.disk_bytes,
            block_bytes=block_bytes,
            state_bytes=state_bytes,
            granule_bytes=_PAGE_BYTES,
            head_bytes=_PAGE_BYTES,
        )
        self.read = 0
        """Entries, from disk."""

    def held(self, blocks: Sequence[int]) -> HeldBlocks:
        """Counts as no use."""
        in_memory = self.memory.match(blocks)
        return HeldBlocks(max(in_memory, self.disk.match(blocks)), in_memory)

    def use(self, blocks: Sequence[int]) -> None:
        """What is held is loaded."""
        held = self.held(blocks)
        if held.blocks > held.in_memory:
            for entry in self.disk.path(blocks[: held.blocks]):
                if self.memory.match(blocks[: entry.end]) < min(entry.end, held.blocks):
                    self.memory.insert([*blocks[: entry.start], *entry.blocks], entry.start)
                    self.read += 1
        self.memory.use(blocks)
        self.disk.use(blocks)

    def insert(self, blocks: Sequence[int], start: int | None = None) -> None:
        """See `EntryCache.insert`."""
        if start is None:
            start = self.held(blocks).blocks
        self.memory.insert(blocks, start)
        self.disk.insert(blocks, start)
