"""Memory that an agent and its link workers have in common: the arena, behind its descriptor."""

from __future__ import annotations

import ctypes
import mmap
import threading

from prfaas.core.errors import CallerError


class SharedMemory:
    """``view`` is all of it, as this process has it mapped; ``fd`` is what another maps."""

    def __init__(self, fd: int, view: memoryview) -> None:
        self.fd, self.view = fd, view
        self._start = _address(view)
        self._scratch = threading.local()

    def extent(self, view: memoryview) -> tuple[int, int]:
        """(offset, length) of a part. Raises CallerError for one that lies elsewhere."""
        offset = -1 if view.readonly else _address(view) - self._start
        if not 0 <= offset <= len(self.view) - len(view):
            raise CallerError("the link can send and receive parts of the agent's arena only")
        return offset, len(view)

    def part(self, offset: int, length: int) -> memoryview:
        """The memory of an extent, of this thread's own where ``offset`` is below 0. Raises
        ValueError outside."""
        if offset < 0:
            return self._own(length)
        if not 0 <= offset <= offset + length <= len(self.view):
            raise ValueError(f"[{offset}, {offset + length}) of {len(self.view)} bytes")
        return self.view[offset : offset + length]

    def _own(self, length: int) -> memoryview:
        memory: memoryview | None = getattr(self._scratch, "memory", None)
        if memory is None or len(memory) < length:
            self._scratch.memory = memory = memoryview(bytearray(length))
        return memory[:length]


def map_shared(fd: int) -> SharedMemory:
    """All of what another process has shared."""
    return SharedMemory(fd, memoryview(mmap.mmap(fd, 0)))


def _address(view: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(view))
