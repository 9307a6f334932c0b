"""Files that are read again while a process runs: on demand (SIGHUP), or when they have changed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from prfaas.core.errors import PrfaasError

logger = logging.getLogger(__name__)

_LOOK_S = 1.0
"""How often the file is looked at. One that has changed is read when it looked the same twice: it
may be in the middle of being written, and half of a list is a shorter list."""

Stamps = dict[Path, tuple[int, int, int] | None]
"""What changes with each file; None where there is none."""


def stamps(paths: Iterable[Path]) -> Stamps:
    """As they are now."""
    return {path: _stamp(path) for path in paths}


class Reloading:
    """Watches one file, and what belongs to it. A read that fails changes nothing.

    Args:
        asked: set, perhaps by a signal handler, to have it read at once.
        take: reads the file and makes the process what it says. Raises PrfaasError, having changed
            nothing, for a file that it refuses.
        beside: files that it names (keys, certificates), as it says now; they are read with it.
        on_end: told how each read has ended: ``"taken"`` or ``"refused"``.
        since: `stamps` of before they were read first, where that is a while ago: what has changed
            since then is read again. None: they are as they were.
    """

    def __init__(
        self,
        path: Path,
        take: Callable[[], None],
        *,
        asked: asyncio.Event,
        beside: Callable[[], Iterable[Path]] = tuple,
        on_end: Callable[[str], None] = lambda _: None,
        since: Stamps | None = None,
    ) -> None:
        self._path = path
        self._take = take
        self._on_end = on_end
        self._asked = asked
        self._beside = beside
        now = self._stamps()
        self._read = now if since is None else {path: since.get(path) for path in now}

    async def run(self) -> None:
        """For ever. Cancel to stop."""
        last = self._read
        while True:
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self._asked.wait()
            except TimeoutError:
                pass
            stamp = self._stamps()
            changed = any(
                now != self._read.get(path)
                for path, now in stamp.items()
                if path != self._path or now is not None
            )
            if self._asked.is_set() or (changed and stamp == last):
                self._asked.clear()
                self._take_it()
                # What it names may be other files now. What has changed meanwhile is read again, as
                # are those that nobody has looked at: they may have been half written.
                self._read = {path: stamp.get(path) for path in self._stamps()}
            last = stamp

    def _stamps(self) -> Stamps:
        return stamps((self._path, *self._beside()))

    def _take_it(self) -> None:
        try:
            self._take()
        except (PrfaasError, OSError) as error:
            logger.error("the new %s is refused, all stays as it was: %s", self._path, error)
            self._on_end("refused")
        except Exception:  # A fault of ours; what is written next is still to be read.
            logger.exception("the new %s cannot be taken over", self._path)
            self._on_end("refused")
        else:
            self._on_end("taken")


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
