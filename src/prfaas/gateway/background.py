"""Tasks that run as long as the gateway does, whatever happens to them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

logger = logging.getLogger(__name__)

_PAUSE_S = 1.0
"""Before a task that died is started again: what it died of may last a while."""


class Background:
    """Starts tasks, and again where one dies of an error. ``on_death`` is told which kind it was.
    For one event loop; `close` ends all."""

    def __init__(self, on_death: Callable[[str], None]) -> None:
        self._on_death = on_death
        self._tasks: set[asyncio.Task[None]] = set()

    def run(self, kind: str, work: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        """Do ``work`` until it returns. Cancel the task to stop it."""
        task = asyncio.ensure_future(self._keep_going(kind, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Cancel every task and wait for it."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_going(self, kind: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            try:
                await work()
                return
            except Exception:
                logger.exception("a task of the gateway died and is started again: %s", kind)
                self._on_death(kind)
            await asyncio.sleep(_PAUSE_S)
