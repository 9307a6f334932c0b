"""The agent's shared-memory arena: one nameless file in /dev/shm, mapped by agent and engines."""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
from pathlib import Path

from prfaas.core.errors import ConfigError
from prfaas.core.units import format_bytes

SHM = Path("/dev/shm")
_MADV_POPULATE_WRITE = 23  # Linux 5.14; Python does not name it


class Arena:
    """``size_bytes`` of memory behind ``fd``.

    The file loses its name before it gets its size, so nothing can be left behind: the kernel
    frees it with the last process that has it open or mapped, even after ``kill -9`` of all.

    Raises ConfigError if /dev/shm has too little room. Every page is allocated here: one that
    cannot be had shows now, not as a SIGBUS in the middle of a transfer. Huge pages are taken where
    the machine gives them to shared memory.
    """

    def __init__(self, name: str, size_bytes: int, *, directory: Path = SHM) -> None:
        _check_room(size_bytes, directory)
        path = directory / f"prfaas-{name.replace('/', '_')}-{os.getpid()}-{secrets.token_hex(4)}"
        self.size_bytes = size_bytes
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.unlink(path)
            os.ftruncate(self.fd, size_bytes)
            self._map = mmap.mmap(self.fd, size_bytes)
            # Both are hints, and only here, before a page exists, can pages become huge ones.
            with contextlib.suppress(OSError):
                self._map.madvise(mmap.MADV_HUGEPAGE)
                self._map.madvise(_MADV_POPULATE_WRITE)
            try:
                # Allocates and zeroes: unlike ftruncate it fails where memory is missing.
                os.posix_fallocate(self.fd, 0, size_bytes)
            except OSError as error:
                raise ConfigError(
                    f"arena of {format_bytes(size_bytes)} cannot be had in {directory}: "
                    f"{error.strerror}; make the agent's arena smaller"
                ) from error
        except BaseException:
            os.close(self.fd)
            raise
        self.view = memoryview(self._map)

    def copy(self, source: int, target: int, length: int) -> None:
        """Bytes from one offset to another; the ranges do not overlap."""
        self.view[target : target + length] = self.view[source : source + length]

    def close(self) -> None:
        """Give the memory back; if a slice of ``view`` is still held, with that."""
        os.close(self.fd)
        with contextlib.suppress(BufferError):
            self.view.release()
            self._map.close()


def _check_room(size_bytes: int, directory: Path) -> None:
    try:
        room = os.statvfs(directory)
    except OSError as error:
        raise ConfigError(f"no shared memory at {directory}: {error.strerror}") from error
    free_bytes = room.f_bavail * room.f_frsize
    if size_bytes > free_bytes:
        raise ConfigError(
            f"arena of {format_bytes(size_bytes)} does not fit: {directory} has "
            f"{format_bytes(free_bytes)} free; make the agent's arena smaller or {directory} "
            "larger (containers: --shm-size, or an emptyDir with medium Memory)"
        )
