"""Several gateway processes at one address: started, started again where one dies, ended together.

Theory of operation. Each worker is a gateway like any other, with an address of its own for
operators; they meet at the agents, as gateways do. All listen at one port, and the kernel spreads
connections over those that listen, so one that has died gets none. Nothing goes through this
process: it keeps the port, also while no worker has it yet, and passes signals on.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

from prfaas.core.addresses import Address, parse_address
from prfaas.core.errors import ConfigError
from prfaas.launch.restart_pause import STEADY_S, RestartPause
from prfaas.launch.sessions import tied_to_parent
from prfaas.process.front_door import bound

logger = logging.getLogger(__name__)

_WRONG = 2
"""Exit status of a worker whose file or address is wrong: another start would not help."""


class GatewayWorkers:
    """``command``: the command line of a worker, by its number from 1."""

    def __init__(self, count: int, command: Callable[[int], Sequence[str]]) -> None:
        self._count, self._command = count, command
        self._running: dict[int, asyncio.subprocess.Process] = {}

    async def run(self) -> int:
        """Until cancelled: then each is asked to end, and waited for. Returns where one cannot
        begin, with its exit status."""
        keeping = [asyncio.ensure_future(self._keep(n + 1)) for n in range(self._count)]
        try:
            done, _ = await asyncio.wait(keeping, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for task in keeping:
                task.cancel()
            self.tell(signal.SIGTERM)
            await asyncio.gather(*keeping, return_exceptions=True)

    def tell(self, number: signal.Signals) -> None:
        """Send all of them a signal."""
        for process in self._running.values():
            with suppress(ProcessLookupError):
                process.send_signal(number)

    async def _keep(self, worker: int) -> int:
        """Run one, for ever; its status where it has never begun."""
        loop, pause, first = asyncio.get_running_loop(), RestartPause(), True
        while True:
            began = loop.time()
            status = await self._see_through(worker)
            ran_s = loop.time() - began
            if first and status == _WRONG and ran_s < STEADY_S:
                return status
            first, pause_s = False, pause.after(ran_s)
            logger.error("worker %d ended (status %d), again in %g s", worker, status, pause_s)
            await asyncio.sleep(pause_s)

    async def _see_through(self, worker: int) -> int:
        """One life of a worker. A session of its own: a terminal's Ctrl-C reaches it from here
        alone."""
        starting = asyncio.ensure_future(self._start(worker))
        process = await asyncio.shield(starting)
        ended = asyncio.ensure_future(process.wait())
        try:
            return await asyncio.shield(ended)
        finally:
            await ended
            self._running.pop(worker, None)

    async def _start(self, worker: int) -> asyncio.subprocess.Process:
        process = self._running[worker] = await asyncio.create_subprocess_exec(
            *self._command(worker), start_new_session=True, preexec_fn=_begins()
        )
        logger.info("worker %d is process %d", worker, process.pid)
        return process


def _begins() -> Callable[[], None]:
    """For ``preexec_fn``: SIGHUP ends none that does not listen to it yet."""
    tie = tied_to_parent()

    def begin() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        tie()

    return begin


@asynccontextmanager
async def kept_port(listen: str) -> AsyncIterator[str]:
    """Yields the address with a port that workers can share, also where ``listen`` leaves it open.
    Raises ConfigError where another process has it."""
    host, port = parse_address(listen, what="gateway.listen")
    try:
        # Shared with nobody at first: two gateways that are given one port by mistake must not mix.
        sockets = await bound(host, port, shared=False)
        port = sockets[0].getsockname()[1]
        _close(sockets)
        sockets = await bound(host, port, shared=True)
    except OSError as error:
        raise ConfigError(
            f"gateway.listen {listen}: cannot listen there: {error.strerror or error}"
        ) from error
    try:
        yield str(Address(host, port))
    finally:
        _close(sockets)


def _close(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()
