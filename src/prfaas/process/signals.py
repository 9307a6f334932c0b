"""Ctrl-C and SIGTERM end a program in order: they cancel it, and it cleans up on the way out."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any


def run_until_signal(
    program: Coroutine[Any, Any, int],
    *,
    stopped_status: int | None = None,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    on_hangup: Callable[[], None] | None = None,
    on_repeated: Callable[[], None] | None = None,
) -> int:
    """Run ``program`` on an event loop of its own; returns its exit status.

    SIGINT and SIGTERM cancel it, once: a second signal does not break off the cleaning up, but
    calls ``on_repeated``. SIGHUP does the same where it is not ignored (``nohup``), or calls
    ``on_hangup`` where there is one. The status is then ``stopped_status`` (0 for a server, which
    ends in no other way), or where that is None 128 + the signal.
    """

    async def main() -> int:
        task = asyncio.ensure_future(program)
        received: list[int] = []

        def end(number: int) -> None:
            if not received:
                task.cancel()
            elif on_repeated is not None:
                on_repeated()
            received.append(number)

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, end, number)
        if on_hangup is not None:
            loop.add_signal_handler(signal.SIGHUP, on_hangup)
        elif signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            loop.add_signal_handler(signal.SIGHUP, end, signal.SIGHUP)
        try:
            return await task
        except asyncio.CancelledError:
            if not received:
                raise
            return 128 + received[0] if stopped_status is None else stopped_status

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(main())
