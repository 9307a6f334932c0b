"""The directory in which an agent keeps cached prefixes: one file each (`pool.spill_format`).

Files are this user's alone (directory 0700, files 0600), and hold KV in the clear. One agent uses a
directory at a time. A file is written under another name and renamed when it is whole, so ``kill
-9`` leaves none that is torn. Nothing waits for the disk's own cache (no fsync): what a power
failure tears is found by its size or its checksums, and dropped; a cache may be lost.

Bytes go past the page cache (O_DIRECT), which would else hold the arena's contents once more; on a
file system without it they are written back and dropped from there (posix_fadvise).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import mmap
import os
import stat
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
from xxhash import xxh3_64, xxh3_64_intdigest

from prfaas.agent.spill_directory import LOCK, UNFINISHED, can_be_direct, lock, open_directory
from prfaas.core.deployment import SpillConfig
from prfaas.core.extents import Extent
from prfaas.link.api import TransferKey
from prfaas.pool.kept import KeptPrefix
from prfaas.pool.spill_format import (
    ALIGN,
    CHUNK_BYTES,
    FileHead,
    SpillFault,
    chunks_of,
    decode_head,
    encode_head,
    head_bytes,
    pack_checksums,
    padded,
    span_of_head,
)

log = logging.getLogger(__name__)

_ENDS_IN = ".kv"
_MOST_VECTORS = 512
_READERS = 2
_LONGEST_LOOK = 64 << 20
"""Bytes, that measure a disk."""


class SpillFiles:
    """The files of one agent, which holds the directory until `close`.

    Args:
        key_id: of the cache key by which the names are made.
        arena: the agent's; what is read goes there, what is written comes from there.
        direct: past the page cache, where the file system can.

    Raises ConfigError for a directory that cannot be used.
    """

    def __init__(self, path: Path, *, key_id: str, arena: memoryview, direct: bool = True) -> None:
        self._path, self._key_id, self._arena = path, key_id, arena
        self._bytes = np.frombuffer(arena, dtype=np.uint8)
        self._dir = open_directory(path)
        try:
            self._lock = lock(path, self._dir)
        except BaseException:
            os.close(self._dir)
            raise
        self.direct = direct and can_be_direct(self._dir)
        self._bounce = mmap.mmap(-1, CHUNK_BYTES)
        # While one verifies a chunk another reads the next.
        self._readers = ThreadPoolExecutor(_READERS, "prfaas-spill-chunk")

    def close(self) -> None:
        """Another agent may use the directory. Not while anything is under way."""
        self._readers.shutdown()
        os.close(self._lock)
        os.close(self._dir)
        del self._bytes, self._arena

    def rekey(self, key_id: str) -> None:
        """From now on names are made by this cache key. By the thread that writes."""
        self._key_id = key_id

    # what an earlier life has left

    def found(self) -> Iterator[KeptPrefix]:
        """Every whole file, what was used least recently first. What is torn, of another release or
        under another key is removed; what has another name is nobody's business here."""
        files = []
        for name in os.listdir(self._dir):
            if name.endswith(UNFINISHED):
                self._remove(name)
            elif name.endswith(_ENDS_IN):
                with contextlib.suppress(OSError):
                    files.append((os.stat(name, dir_fd=self._dir).st_mtime_ns, name))
            elif name != LOCK:
                log.warning("%s: %s is no file of an agent; it is left alone", self._path, name)
        for _, name in sorted(files):
            try:
                what = self._head(name).what
                if _name(what.key) != name:
                    raise SpillFault("it is of another name")
            except (SpillFault, OSError) as error:
                log.warning("%s: %s is dropped: %s", self._path, name, error)
                self._remove(name)
            else:
                yield what

    def _head(self, name: str) -> FileHead:
        with self._opened(name, os.O_RDONLY, direct=False) as file:
            return self._read_head(file)

    def _read_head(self, file: int) -> FileHead:
        """Raises SpillFault, OSError."""
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise SpillFault("it is no file")
        span = span_of_head(os.pread(file, ALIGN, 0))
        raw = os.pread(file, span, 0)
        os.posix_fadvise(file, 0, span, os.POSIX_FADV_DONTNEED)
        return decode_head(raw, key_id=self._key_id, size=found.st_size)

    # one at a time, each by one thread of its own

    def write(self, what: KeptPrefix, extents: Sequence[Extent]) -> None:
        """Make a file of these bytes. Raises OSError; then there is none."""
        name, begins = _name(what.key), head_bytes(what)
        unfinished = name + UNFINISHED
        try:
            with self._opened(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as file:
                checksums, at = [], begins
                for length in self._gather(extents):
                    checksums.append(xxh3_64_intdigest(memoryview(self._bounce)[:length]))
                    _write(file, memoryview(self._bounce)[: padded(length)], at)
                    at += length
                head = encode_head(FileHead(self._key_id, what, pack_checksums(checksums)))
                with mmap.mmap(-1, len(head)) as aligned:  # as O_DIRECT wants it
                    aligned[:] = head
                    _write(file, memoryview(aligned), 0)
                if not self.direct:
                    os.fdatasync(file)  # what is not written yet would stay in the page cache
                    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.rename(unfinished, name, src_dir_fd=self._dir, dst_dir_fd=self._dir)
        except BaseException:
            self._remove(unfinished)
            raise

    def read(self, what: KeptPrefix, extents: Sequence[Extent]) -> None:
        """Read them back: whole slots but for the last, in flat order. Raises SpillFault, OSError
        where that is not exactly what was written."""
        name = _name(what.key)
        with self._opened(name, os.O_RDONLY) as file:
            with self._opened(name, os.O_RDONLY, direct=False) as buffered:
                head = self._read_head(buffered)
            if head.what != what:
                raise SpillFault("it is of something else")
            begins = head_bytes(what)
            each = [
                self._readers.submit(self._read_chunk, file, begins, head, extents, chunk)
                for chunk in range(chunks_of(what.total_bytes))
            ]
            wait(each)  # after a failure, too: the memory goes to somebody else
            for chunk in each:
                chunk.result()
            if not self.direct:
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        with contextlib.suppress(OSError):
            os.utime(name, dir_fd=self._dir)

    def _read_chunk(
        self, file: int, begins: int, head: FileHead, extents: Sequence[Extent], chunk: int
    ) -> None:
        """Raises SpillFault, OSError."""
        what, start = head.what, chunk * CHUNK_BYTES
        end = min(start + CHUNK_BYTES, what.total_bytes)
        _read(file, self._views(extents, start, end), begins + start)
        if self._checksum(extents, start, end) != head.checksum(chunk):
            raise SpillFault(f"bytes {start} to {end} are not those that were written")

    def measure(self, what: KeptPrefix) -> float:
        """Bytes a second of a look through its file, as long as `_LONGEST_LOOK`. By the thread that
        writes. Raises OSError."""
        end, done = min(what.total_bytes, _LONGEST_LOOK), 0
        with self._opened(_name(what.key), os.O_RDONLY) as file:
            began = time.monotonic()
            while done < end:
                read = os.preadv(file, [self._bounce], head_bytes(what) + done)
                if not read:
                    raise OSError(errno.EIO, "it is cut off")
                done += read
            took_s = time.monotonic() - began
            if not self.direct:
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        return done / max(1e-6, took_s)

    def drop(self, key: TransferKey) -> None:
        """Harmless where there is no file."""
        self._remove(_name(key))

    def _gather(self, extents: Sequence[Extent]) -> Iterator[int]:
        """Bring the bytes together, chunk by chunk; yields each one's length."""
        bounce = np.frombuffer(self._bounce, dtype=np.uint8)
        filled = 0
        for extent in extents:
            done = 0
            while done < extent.length:
                part = min(extent.length - done, CHUNK_BYTES - filled)
                at = extent.arena_offset + done
                # Without the interpreter's lock, which the link's threads need.
                np.copyto(bounce[filled : filled + part], self._bytes[at : at + part])
                done, filled = done + part, filled + part
                if filled == CHUNK_BYTES:
                    yield filled
                    filled = 0
        if filled:
            bounce[filled : padded(filled)] = 0
            yield filled
        del bounce

    def _views(self, extents: Sequence[Extent], start: int, end: int) -> list[memoryview]:
        """Where [start, end) of the transfer goes, up to whole pages: the rest of a last slot is
        nobody's."""
        views = []
        for extent in extents:
            first, last = max(start, extent.flat_offset), min(end, extent.flat_end)
            if first < last:
                at = extent.arena_offset + first - extent.flat_offset
                views.append(self._arena[at : at + padded(last - first)])
        return views

    def _checksum(self, extents: Sequence[Extent], start: int, end: int) -> int:
        digest = xxh3_64()
        for extent in extents:
            first, last = max(start, extent.flat_offset), min(end, extent.flat_end)
            if first < last:
                at = extent.arena_offset + first - extent.flat_offset
                digest.update(self._arena[at : at + last - first])
        return digest.intdigest()

    @contextlib.contextmanager
    def _opened(self, name: str, flags: int, *, direct: bool | None = None) -> Iterator[int]:
        if self.direct if direct is None else direct:
            flags |= os.O_DIRECT
        flags |= os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        file = os.open(name, flags, 0o600, dir_fd=self._dir)
        try:
            yield file
        finally:
            os.close(file)

    def _remove(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self._dir)
        except FileNotFoundError:
            pass
        except OSError as error:
            log.warning("%s: %s cannot be removed: %s", self._path, name, error.strerror)


def spill_files(spill: SpillConfig | None, key_id: str, arena: memoryview) -> SpillFiles | None:
    """As the deployment file has it; None where there is to be no disk. Raises ConfigError."""
    return None if spill is None else SpillFiles(Path(spill.path), key_id=key_id, arena=arena)


def is_full(error: OSError) -> bool:
    """Whether the disk has no room, for anybody or for this user."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _name(key: TransferKey) -> str:
    return f"{key.transfer_id}.{key.rank}.{key.epoch}{_ENDS_IN}"


def _write(file: int, view: memoryview, at: int) -> None:
    while view:
        done = os.pwrite(file, view, at)
        view, at = view[done:], at + done


def _read(file: int, views: list[memoryview], at: int) -> None:
    """Raises SpillFault at the end of the file."""
    while views:
        done = os.preadv(file, views[:_MOST_VECTORS], at)
        if not done:
            raise SpillFault("it is cut off")
        at += done
        while views and done >= len(views[0]):
            done -= len(views.pop(0))
        if done:
            views[0] = views[0][done:]
