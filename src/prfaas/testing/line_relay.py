"""A TCP relay on this machine that stands for the line between two agents: to cut, slow, spoil."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading
from types import TracebackType
from typing import Self

from prfaas.core.addresses import parse_address
from prfaas.launch.addresses import HOST
from prfaas.testing.closing import close

_READ_BYTES = 256 * 1024
_PAUSE_S = 0.02
_RETRANSMITTED_S = 0.2
"""Linux's least time until a lost segment is sent again: what loss looks like above TCP."""


class LineRelay:
    """Relays connections to ``target`` (host:port) as long as the line is not `cut`.

    Put ``address`` under ``via`` of the deployment's link. TLS passes through untouched.
    """

    def __init__(self, target: str) -> None:
        # Listens from here on: whoever dials before the thread runs waits in the backlog.
        self._listening = socket.create_server((HOST, 0))
        self.address = f"{HOST}:{self._listening.getsockname()[1]}"
        self.target = target
        self._rate_bytes_per_s: float | None = None
        self._cut = False
        self._corrupt = self._lossy = 0.0
        self._chance = random.Random(0)
        self._flows = asyncio.Event()
        self._flows.set()
        self._relayed: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="line-relay", daemon=True)
        self._stop = asyncio.Event()

    def cut(self) -> None:
        """End every connection and turn new ones away."""
        self._cut = True
        asyncio.run_coroutine_threadsafe(self._end_all(), self._loop).result()

    def slow(self, bytes_per_s: float) -> None:
        """From now on no more than this in each direction of each connection."""
        self._rate_bytes_per_s = bytes_per_s

    def corrupt(self, share: float) -> None:
        """From now on this share of what is read has a byte that was changed."""
        self._corrupt = share

    def lose(self, share: float) -> None:
        """From now on this share of what is read comes as late as what had to be sent again."""
        self._lossy = share

    def hang(self) -> None:
        """Keep every connection open and pass nothing on."""
        self._loop.call_soon_threadsafe(self._flows.clear)

    def mend(self) -> None:
        """As fast as it goes, for everybody."""
        self._rate_bytes_per_s, self._cut = None, False
        self._corrupt = self._lossy = 0.0
        self._loop.call_soon_threadsafe(self._flows.set)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._accepted, sock=self._listening)
        await self._stop.wait()
        await close(server)
        await self._end_all()

    async def _end_all(self) -> None:
        relayed = list(self._relayed)
        for task in relayed:
            task.cancel()
        await asyncio.gather(*relayed, return_exceptions=True)

    async def _accepted(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._relayed.add(task)
        forth: asyncio.StreamWriter | None = None
        try:
            if not self._cut:
                far, forth = await asyncio.open_connection(*parse_address(self.target))
                await asyncio.gather(self._copy(near, forth), self._copy(far, back))
        except (OSError, asyncio.CancelledError):
            pass  # Either end has gone, or the line was cut: both ends are told below.
        finally:
            self._relayed.discard(task)
            for writer in (back, forth):
                if writer is not None:
                    writer.transport.abort()

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while True:
            rate = self._rate_bytes_per_s
            most = _READ_BYTES if rate is None else max(1, int(rate * _PAUSE_S))
            data = await source.read(most)
            await self._flows.wait()
            if not data:
                break
            if self._chance.random() < self._corrupt:
                at = self._chance.randrange(len(data))
                data = data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]
            if self._chance.random() < self._lossy:
                await asyncio.sleep(_RETRANSMITTED_S)
            sink.write(data)
            await sink.drain()
            if rate is not None:
                await asyncio.sleep(len(data) / rate)
        with contextlib.suppress(OSError):
            sink.write_eof()
