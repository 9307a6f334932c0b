"""The Unix socket where engine ranks register, export and import. Runs on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

from prfaas.agent.driver import PoolDriver
from prfaas.agent.engine_messages import ToEngine, event_of, message_of
from prfaas.agent.link_port import LinkPort
from prfaas.core.errors import ConfigError, EngineError
from prfaas.engine_socket.framing import FrameBuffer, decode_from_engine, encode
from prfaas.engine_socket.messages import (
    PROTOCOL_VERSION,
    AgentMessage,
    EngineMessage,
    Refused,
    Registered,
    RegisterEngine,
)
from prfaas.index.keyed_prefixes import KeyedPrefixes
from prfaas.pool.effects import (
    AnswerImport,
    AnswerLoad,
    FailImport,
    FailLoad,
    GrantSlots,
    StopExport,
)
from prfaas.pool.events import ConnectionClosed, EngineConnected, EngineDropped, ExportFinished
from prfaas.process.accepting import Accepting

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 256
"""Engine ranks of one machine, and some that are being started anew."""
_REGISTER_TIMEOUT_S = 5.0
"""A connection that has not registered by then is ended."""
_ACCEPT_PAUSE_S = 0.2
"""Until the next is accepted, where no descriptor is left."""
_READ_BYTES = 256 * 1024
_MOST_UNREAD = 64 * 1024 * 1024
"""Bytes of answers, in which hundreds of the largest fit: who asks on and reads none is dropped."""
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


class EngineServer:
    """Accepts engines of this user (or root's) and serves each until its end of the stream.

    Args:
        welcome: what a rank is told when it has registered.
        arena_fd: the arena, sent along with it.
        prefixes: make of what engines say of prompts what may leave the machine.
    """

    def __init__(
        self,
        driver: PoolDriver,
        port: LinkPort,
        prefixes: KeyedPrefixes,
        *,
        welcome: Registered,
        arena_fd: int,
    ) -> None:
        self._driver, self._port, self._prefixes = driver, port, prefixes
        self._welcome, self._arena_fd = welcome, arena_fd
        self._tasks: set[asyncio.Task[None]] = set()
        self._next_connection = 0
        self._listener: socket.socket | None = None
        self._accepting: Accepting | None = None
        self._bound: tuple[Path, os.stat_result] | None = None
        self._tell: dict[int, Callable[[AgentMessage], None]] = {}
        """How to speak to a connection that is listened to."""
        driver.carry_out(GrantSlots, self._carry_out)
        driver.carry_out(StopExport, self._carry_out)
        driver.carry_out(AnswerImport, self._carry_out)
        driver.carry_out(FailImport, self._carry_out)
        driver.carry_out(AnswerLoad, self._carry_out)
        driver.carry_out(FailLoad, self._carry_out)

    async def start(self, path: Path) -> None:
        """Listen at ``path``. Raises ConfigError if another agent does, or it cannot be bound."""
        self._listener = _listen(path)
        self._bound = path, os.lstat(path)
        self._accepting = Accepting(
            self._listener, self._came, self._cannot, pause_s=_ACCEPT_PAUSE_S
        )

    async def close(self) -> None:
        """Stop listening and end every connection."""
        if self._accepting is not None:
            self._accepting.stop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._listener is not None and self._bound is not None:
            self._listener.close()
            with contextlib.suppress(OSError):
                _unlink_own(*self._bound)

    def _cannot(self, error: OSError) -> None:
        # Such as too many open files: others may close some.
        log.error("cannot accept an engine: %s", error)

    def _came(self, sock: socket.socket, _address: object) -> None:
        if len(self._tasks) >= MAX_CONNECTIONS:
            log.warning("engine connection refused: more than %d", MAX_CONNECTIONS)
            sock.close()
            return
        task = asyncio.ensure_future(self._serve(sock))
        self._tasks.add(task)
        task.add_done_callback(partial(self._served, sock))

    def _served(self, sock: socket.socket, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        sock.close()  # Also of one that was cancelled before it had begun.

    async def _serve(self, sock: socket.socket) -> None:
        self._next_connection += 1
        number = self._next_connection
        try:
            async with asyncio.timeout(_REGISTER_TIMEOUT_S):
                register = await self._register(sock, number)
            if register is not None:
                await self._converse(sock, number, register.engine)
        except (OSError, EngineError, TimeoutError) as error:
            log.warning("engine connection failed connection=%d: %s", number, error)
        except Exception:
            log.exception("engine connection failed connection=%d", number)
        finally:
            self._driver.handle(ConnectionClosed(number))

    async def _register(self, sock: socket.socket, number: int) -> RegisterEngine | None:
        """None for one that left or was refused."""
        loop = asyncio.get_running_loop()
        frames = FrameBuffer(EngineError)
        bodies: list[bytes] = []
        while not bodies:
            data = await loop.sock_recv(sock, _READ_BYTES)
            if not data:
                return None
            bodies = frames.feed(data)
        message = decode_from_engine(bodies[0])
        if not isinstance(message, RegisterEngine) or len(bodies) > 1:
            raise EngineError("a connection begins with RegisterEngine alone")
        try:
            self._admit(sock, number, message)
        except EngineError as error:
            log.warning("engine refused engine=%s pid=%d: %s", message.engine, message.pid, error)
            await loop.sock_sendall(sock, encode(Refused(str(error))))
            return None
        # The first bytes ever sent here: they fit the socket's buffer.
        socket.send_fds(sock, [encode(self._welcome)], [self._arena_fd])
        log.info("engine registered engine=%s pid=%d connection=%d layout=%s",
                 message.engine, message.pid, number, message.layout.fingerprint()[:8])  # fmt: skip
        return message

    def _admit(self, sock: socket.socket, number: int, message: RegisterEngine) -> None:
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, uid, _ = _CREDENTIALS.unpack(credentials)
        if uid not in (0, os.getuid()):
            raise EngineError(f"user {uid} may not use the agent of user {os.getuid()}")
        if message.version != PROTOCOL_VERSION:
            raise EngineError(
                f"the engine speaks version {message.version}, the agent {PROTOCOL_VERSION}: "
                "install the same release of prfaas on both"
            )
        self._driver.handle(EngineConnected(number, message.engine, message.pid, message.layout))

    async def _converse(self, sock: socket.socket, number: int, engine: str) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=sock)

        def tell(message: AgentMessage) -> None:
            if not writer.is_closing():
                writer.write(encode(message))

        self._tell[number] = tell
        try:
            unread = writer.transport.get_write_buffer_size
            if not await self._listen_to(reader, unread, number, engine):
                # Its slots are ours again only when it has stopped using them: see `messages`.
                writer.write_eof()
                while await reader.read(_READ_BYTES):
                    pass
        finally:
            self._tell.pop(number, None)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            log.info("engine gone engine=%s connection=%d", engine, number)

    async def _listen_to(
        self, reader: asyncio.StreamReader, unread: Callable[[], int], number: int, engine: str
    ) -> bool:
        """Obey the engine to its end of the stream; False if it must be dropped before. ``unread``:
        bytes that it was told and has not read."""
        frames = FrameBuffer(EngineError)
        try:
            while data := await reader.read(_READ_BYTES):
                for body in frames.feed(data):
                    self._obey(number, decode_from_engine(body))
                    if unread() > _MOST_UNREAD:
                        raise EngineError(f"it has not read {_MOST_UNREAD >> 20} MiB of answers")
        except OSError:
            raise
        except Exception as error:
            ours = None if isinstance(error, EngineError) else error
            log.warning("engine dropped engine=%s connection=%d: %s", engine, number, error,
                        exc_info=ours)  # fmt: skip
            del self._tell[number]
            self._driver.handle(EngineDropped(number))
            return False
        return True

    def _obey(self, number: int, message: EngineMessage) -> None:
        """Raises EngineError for what this engine may not say."""
        event = event_of(number, message, self._prefixes)
        if isinstance(event, ExportFinished):
            self._port.report_progress(event.transfer_id)
        self._driver.handle(event)

    def _carry_out(self, effect: ToEngine) -> None:
        tell = self._tell.get(effect.connection)
        if tell is not None:
            tell(message_of(effect))


def _unlink_own(path: Path, bound: os.stat_result) -> None:
    """What is there may be somebody else's by now. Raises OSError."""
    if os.path.samestat(path.lstat(), bound):
        path.unlink()


def _listen(path: Path) -> socket.socket:
    """A listening socket that only this user can reach; a dead agent's leftover is replaced."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if os.path.lexists(path) and not stat.S_ISSOCK(path.lstat().st_mode):
            raise ConfigError(f"{path} is not a socket; choose a path where nothing is")
        if _answers(path):
            raise ConfigError(f"another agent listens at {path}")
        path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(64)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen at {path}: {error}") from error
    except ConfigError:
        listener.close()
        raise
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        return True
