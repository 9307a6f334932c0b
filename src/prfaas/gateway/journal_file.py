"""Where a gateway writes its journal (`prfaas.scheduler.journal`): a file, or nowhere."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from io import FileIO
from pathlib import Path

from prfaas.core.errors import ConfigError
from prfaas.process.own_files import for_us_alone
from prfaas.scheduler.journal import Entry, LinesLost, encode

logger = logging.getLogger(__name__)


class JournalFile:
    """Appends entries to a file, or to nothing where ``path`` is None.

    Raises ConfigError if the file cannot be opened. What cannot be written (a full disk, a pipe
    that nobody reads) is lost, never waited for: the log says so once, and a `LinesLost` stands
    where writing goes on.
    """

    def __init__(self, path: Path | None) -> None:
        try:
            self._file = None if path is None else _opened(path)
        except OSError as error:
            raise ConfigError(f"--events {path}: {error.strerror}") from error
        self._lost = 0
        self.listener: Callable[..., None] | None = None
        """Is given all that is written, as `write` is."""

    def write(self, at: float, *entries: Entry) -> None:
        """Append entries of one time; ``at``: seconds on the monotonic clock."""
        if self.listener is not None:
            self.listener(at, *entries)
        if self._file is None:
            return
        lines = [encode(at, entry) for entry in entries]
        if self._lost:
            # What was begun is no line: it must not be taken for one with what comes now.
            lines.insert(0, b"\n" + encode(at, LinesLost(self._lost)))
        data = b"".join(lines)
        try:
            written = self._file.write(data)
            if written != len(data):
                raise OSError(0, "it took only part of a line")
            self._lost = 0
        except OSError as error:
            if not self._lost:
                logger.error("journal %s loses lines: %s", self._file.name, error.strerror)
            self._lost += len(entries)

    def close(self) -> None:
        """No more entries come."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _opened(path: Path) -> FileIO:
    """The file, to append to; a line that its last writer did not end is ended. It may have an
    engine's words, and in these a prompt's."""
    file = FileIO(path, "a+", opener=for_us_alone)
    if not file.seekable():  # Whoever reads a pipe may have stopped.
        os.set_blocking(file.fileno(), False)
    elif file.tell():
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")
    return file
