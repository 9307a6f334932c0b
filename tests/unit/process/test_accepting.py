"""Who comes to a listening socket is given to somebody, once, or is told that nobody listens."""

from __future__ import annotations

import asyncio
import errno
import gc
import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import uvloop

from prfaas.process.accepting import Accepting

Loop = Callable[[], asyncio.AbstractEventLoop]
LOOPS = pytest.mark.parametrize(
    "loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)


class Listener(socket.socket):
    """Out of descriptors as often as it is told."""

    fails = 0

    def accept(self) -> tuple[socket.socket, Any]:
        if self.fails:
            self.fails -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


def listening() -> Listener:
    listener = Listener()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    listener.setblocking(False)
    return listener


class Book:
    """What came, and what was told."""

    def __init__(self) -> None:
        self.came: list[tuple[socket.socket, Any]] = []
        self.failed: list[OSError] = []
        self.news = asyncio.Event()

    def at(self, listener: socket.socket, *, pause_s: float = 0.0) -> Accepting:
        return Accepting(listener, self._came, self._failed, pause_s=pause_s)

    def _came(self, sock: socket.socket, address: Any) -> None:
        self.came.append((sock, address))
        self.news.set()

    def _failed(self, error: OSError) -> None:
        self.failed.append(error)
        self.news.set()


@LOOPS
@pytest.mark.parametrize("turns", range(5))
def test_none_is_lost_when_it_stops(loop: Loop, turns: int) -> None:
    async def stopped() -> Book:
        book = Book()
        with listening() as listener:
            accepting = book.at(listener)
            for _ in range(5):
                await asyncio.sleep(0)
            for _ in range(3):
                clients.enter_context(socket.create_connection(listener.getsockname()))
            for _ in range(turns):
                await asyncio.sleep(0)
            accepting.stop()
        return book

    with ExitStack() as clients, asyncio.Runner(loop_factory=loop) as runner:
        book = runner.run(stopped())
        for sock, address in book.came:
            assert sock.getpeername() == address
            assert not sock.getblocking()
            sock.close()
        gc.collect()  # What is open still warns, which fails the test.


@LOOPS
def test_where_none_can_be_had_it_says_so_and_tries_again(loop: Loop) -> None:
    async def tried() -> None:
        book = Book()
        with listening() as listener:
            listener.fails = 2
            accepting = book.at(listener)
            with socket.create_connection(listener.getsockname()) as client:
                while not book.came:
                    await book.news.wait()
                    book.news.clear()
                assert [error.errno for error in book.failed] == [errno.EMFILE] * 2
                ((sock, address),) = book.came
                assert address == client.getsockname()
                sock.close()
            accepting.stop()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(tried())


@LOOPS
def test_it_can_be_stopped_while_it_waits_to_try_again(loop: Loop) -> None:
    async def stopped() -> None:
        book = Book()
        with listening() as listener:
            listener.fails = 1
            accepting = book.at(listener, pause_s=0.001)
            with socket.create_connection(listener.getsockname()):
                await book.news.wait()
                accepting.stop()
                await asyncio.sleep(0.01)
                assert not book.came

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(stopped())
