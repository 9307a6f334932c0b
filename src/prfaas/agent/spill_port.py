"""The pool's way to the disk and back: effects go to two threads, what becomes of them to the pool.

One thread reads, one writes and drops, in the order of the effects. Neither takes the pool's lock
but to say what has happened, and the event loop waits for neither: a disk that hangs holds up what
is read from it, and nothing else.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from prfaas.agent.driver import PoolDriver
from prfaas.agent.spill_files import SpillFiles, is_full
from prfaas.core.units import format_bytes
from prfaas.pool.disk_events import (
    SpillFound,
    SpillRead,
    SpillUnreadable,
    SpillWriteFailed,
    SpillWritten,
)
from prfaas.pool.effects import DropSpilled, ReadSpilled, WriteSpilled
from prfaas.pool.kept import KeptPrefix
from prfaas.pool.spill_format import CHUNK_BYTES, SpillFault

log = logging.getLogger(__name__)

_NICE = 5
"""Of the thread that writes: others' work on the machine goes first."""
_WEIGHT = 0.3
"""Of the last file in the rate."""

_Work = Callable[[Any], None]


class SpillPort:
    """``files``: None where the agent has no disk; then the pool asks for nothing."""

    def __init__(self, driver: PoolDriver, files: SpillFiles | None) -> None:
        self._driver, self._files = driver, files
        self.read_bytes_per_s = 0.0
        """As files were read lately; 0: none yet."""
        self.measured_bytes_per_s: float | None = None
        """In one look through a file of several chunks; None: there was none yet."""
        self._writer = ThreadPoolExecutor(1, "prfaas-spill-write", initializer=_give_way)
        self._reader = ThreadPoolExecutor(1, "prfaas-spill-read")
        driver.carry_out(WriteSpilled, self._to(self._writer, self._write))
        driver.carry_out(DropSpilled, self._to(self._writer, self._drop))
        driver.carry_out(ReadSpilled, self._to(self._reader, self._read))

    def look_through(self) -> None:
        """Begin to tell what an earlier life of the agent has left; once, before all else."""
        if self._files is not None:
            self._writer.submit(self._find)

    def rekey(self, key_id: str) -> None:
        """Names are made with this key from now on; those of what is to be written already are
        not."""
        if self._files is not None:
            self._writer.submit(self._files.rekey, key_id)

    def close(self) -> None:
        """Nothing is begun any more, and what is under way has ended when this returns. Blocks."""
        self._reader.shutdown(cancel_futures=True)
        self._writer.shutdown(cancel_futures=True)
        if self._files is not None:
            self._files.close()

    def _to(self, executor: ThreadPoolExecutor, work: _Work) -> _Work:
        def submit(effect: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the agent ends
                executor.submit(self._guarded, work, effect)

        return submit

    def _guarded(self, work: _Work, effect: Any) -> None:
        try:
            work(effect)
        except Exception:
            log.exception("a fault of ours: %s could not be carried out", type(effect).__name__)

    def _find(self) -> None:
        """Before anything is written: what is there may have to make room."""
        assert self._files is not None
        count = 0
        largest: KeptPrefix | None = None
        try:
            for what in self._files.found():
                self._driver.report(SpillFound(what))
                count += 1
                if largest is None or what.total_bytes > largest.total_bytes:
                    largest = what
        except OSError as error:
            log.error("what is on disk cannot be looked through: %s", error)
        if count:
            log.info("%d cached prefixes were found on disk", count)
        if largest is not None:
            self._measure(largest)

    def _measure(self, what: KeptPrefix) -> None:
        """Once: what is told of it is what gateways expect before they have seen a load."""
        if self.measured_bytes_per_s is not None or what.total_bytes < CHUNK_BYTES:
            return
        assert self._files is not None
        try:
            self.measured_bytes_per_s = self._files.measure(what)
        except OSError as error:  # it may have made room meanwhile
            log.info("the disk was not measured: %s", error)
        else:
            log.info("the disk reads %s/s", format_bytes(self.measured_bytes_per_s))

    def _write(self, effect: WriteSpilled) -> None:
        assert self._files is not None
        key = effect.what.key
        try:
            self._files.write(effect.what, effect.extents)
        except OSError as error:
            reason = f"the disk takes no more: {error}" if is_full(error) else str(error)
            log.warning("cached prefixes are not written to disk for a while: %s", reason)
            self._driver.report(SpillWriteFailed(key, reason, is_full(error)))
        except BaseException as error:
            self._driver.report(SpillWriteFailed(key, repr(error)))
            raise
        else:
            self._driver.report(SpillWritten(key))
            self._measure(effect.what)

    def _read(self, effect: ReadSpilled) -> None:
        assert self._files is not None
        key, began = effect.what.key, time.monotonic()
        try:
            self._files.read(effect.what, effect.extents)
        except (OSError, SpillFault) as error:
            log.warning("a file on disk is dropped transfer=%s: %s", key.transfer_id, error)
            self._driver.report(SpillUnreadable(key, str(error)))
        except BaseException as error:
            self._driver.report(SpillUnreadable(key, repr(error)))
            raise
        else:
            rate = effect.what.total_bytes / max(1e-6, time.monotonic() - began)
            known = self.read_bytes_per_s
            self.read_bytes_per_s = known + _WEIGHT * (rate - known) if known else rate
            self._driver.report(SpillRead(key))

    def _drop(self, effect: DropSpilled) -> None:
        if self._files is not None:
            self._files.drop(effect.key)


def _give_way() -> None:
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
