"""Ctrl-C and SIGTERM end a program in order: they cancel it, and it cleans up on the way out."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any


def run_until_signal(program: Coroutine[Any, Any, int]) -> int:
    """Run ``program``; its exit status, or 128 + the signal that ended it."""

    async def main() -> int:
        task = asyncio.ensure_future(program)
        received: list[int] = []

        def end(number: int) -> None:
            if not received:  # A second Ctrl-C must not break off the cleaning up.
                task.cancel()
            received.append(number)

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, end, number)
        try:
            return await task
        except asyncio.CancelledError:
            if not received:
                raise
            return 128 + received[0]

    return asyncio.run(main())
