"""The running parts of one request's attempts, each stopped by its name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class AttemptTasks:
    """Tasks by (part, attempt). ``on_bug`` is told of an exception that none of them expected."""

    def __init__(self, on_bug: Callable[[BaseException], None]) -> None:
        self._on_bug = on_bug
        self._tasks: dict[tuple[str, int], asyncio.Task[None]] = {}

    def start(self, part: str, attempt: int, work: Coroutine[Any, Any, None]) -> None:
        """Run part of an attempt until it ends or `stop` is called for it."""
        task = self._tasks[part, attempt] = asyncio.ensure_future(work)
        task.add_done_callback(self._ended)

    def stop(self, part: str, attempt: int) -> None:
        """Cancel it; harmless where it has ended."""
        task = self._tasks.pop((part, attempt), None)
        if task is not None:
            task.cancel()

    def stop_all(self) -> None:
        """Cancel whatever still runs."""
        for part, attempt in list(self._tasks):
            self.stop(part, attempt)

    def running(self, part: str, attempt: int) -> bool:
        """Whether it was started and not stopped since."""
        return (part, attempt) in self._tasks

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (bug := task.exception()) is not None:
            self._on_bug(bug)
