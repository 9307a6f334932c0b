"""The Unix socket where engine ranks register, export and import. Runs on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from prfaas.agent.exports import Exports
from prfaas.agent.imports import Imports
from prfaas.agent.leases import Leases
from prfaas.agent.registry import EngineEntry
from prfaas.agent.state import AgentState
from prfaas.core.errors import ConfigError, EngineError, PeerError
from prfaas.engine_socket.framing import FrameBuffer, decode_from_engine, encode
from prfaas.engine_socket.messages import (
    PROTOCOL_VERSION,
    AbortExport,
    AgentMessage,
    BeginExport,
    CloseImport,
    EngineMessage,
    ExportSlot,
    FinishExport,
    LeaseSlots,
    OpenImport,
    Refused,
    Registered,
    RegisterEngine,
    ReturnSlots,
    SlotsLeased,
)

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 256
_REGISTER_TIMEOUT_S = 5.0
_ACCEPT_PAUSE_S = 0.2
_READ_BYTES = 256 * 1024
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


class EngineServer:
    """Accepts engines of this user (or root's) and serves each until its end of the stream."""

    def __init__(
        self, state: AgentState, exports: Exports, imports: Imports, leases: Leases
    ) -> None:
        self._state = state
        self._exports, self._imports, self._leases = exports, imports, leases
        self._tasks: set[asyncio.Task[None]] = set()
        self._next_connection = 0
        self._listener: socket.socket | None = None
        self._path: Path | None = None

    async def start(self, path: Path) -> None:
        """Listen at ``path``. Raises ConfigError if another agent does, or it cannot be bound."""
        self._listener, self._path = _listen(path), path
        self._spawn(self._accept(self._listener))

    async def close(self) -> None:
        """Stop listening and end every connection."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._listener is not None and self._path is not None:
            self._listener.close()
            self._path.unlink(missing_ok=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(listener)
            except OSError as error:  # such as too many open files: others may close some
                log.error("cannot accept an engine: %s", error)
                await asyncio.sleep(_ACCEPT_PAUSE_S)
                continue
            sock.setblocking(False)
            if len(self._tasks) > MAX_CONNECTIONS:
                log.warning("engine connection refused: more than %d", MAX_CONNECTIONS)
                sock.close()
            else:
                self._spawn(self._serve(sock))

    async def _serve(self, sock: socket.socket) -> None:
        self._next_connection += 1
        number = self._next_connection
        try:
            entry = await asyncio.wait_for(self._register(sock, number), _REGISTER_TIMEOUT_S)
            if entry is not None:
                await self._converse(sock, number, entry)
        except (OSError, PeerError, TimeoutError) as error:
            log.warning("engine connection failed connection=%d: %s", number, error)
        except Exception:
            log.exception("engine connection failed connection=%d", number)
        finally:
            sock.close()
            self._gone(number)

    def _gone(self, number: int) -> None:
        self._state.registry.remove(number)
        self._exports.connection_gone(number)
        self._imports.connection_gone(number)
        self._leases.connection_gone(number)

    async def _register(self, sock: socket.socket, number: int) -> EngineEntry | None:
        loop = asyncio.get_running_loop()
        frames = FrameBuffer()
        bodies: list[bytes] = []
        while not bodies:
            data = await loop.sock_recv(sock, _READ_BYTES)
            if not data:
                return None
            bodies = frames.feed(data)
        message = decode_from_engine(bodies[0])
        if not isinstance(message, RegisterEngine) or len(bodies) > 1:
            raise PeerError("a connection begins with RegisterEngine alone")
        try:
            entry = self._admit(sock, number, message)
        except EngineError as error:
            log.warning("engine refused engine=%s pid=%d: %s", message.engine, message.pid, error)
            await loop.sock_sendall(sock, encode(Refused(str(error))))
            return None
        pool = self._state.pool
        answer = Registered(self._state.name, pool.slot_bytes, pool.slot_count)
        # The first bytes ever sent here: they fit the socket's buffer.
        socket.send_fds(sock, [encode(answer)], [self._state.arena.fd])
        log.info("engine registered engine=%s pid=%d connection=%d layout=%s",
                 entry.engine, entry.pid, number, entry.fingerprint[:8])  # fmt: skip
        return entry

    def _admit(self, sock: socket.socket, number: int, message: RegisterEngine) -> EngineEntry:
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, uid, _ = _CREDENTIALS.unpack(credentials)
        if uid not in (0, os.getuid()):
            raise EngineError(f"user {uid} may not use the agent of user {os.getuid()}")
        if message.version != PROTOCOL_VERSION:
            raise EngineError(
                f"the engine speaks version {message.version}, the agent {PROTOCOL_VERSION}: "
                "install the same release of prfaas on both"
            )
        return self._state.registry.register(number, message.engine, message.pid, message.layout)

    async def _converse(self, sock: socket.socket, number: int, entry: EngineEntry) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=sock)
        dropped = False

        def send(message: AgentMessage) -> None:
            if not (dropped or writer.is_closing()):
                writer.write(encode(message))

        frames = FrameBuffer()
        try:
            while data := await reader.read(_READ_BYTES):
                for body in frames.feed(data):
                    self._handle(number, entry, send, decode_from_engine(body))
        except OSError:
            raise
        except Exception as error:
            ours = None if isinstance(error, PeerError) else error
            log.warning("engine dropped engine=%s connection=%d: %s", entry.engine, number, error,
                        exc_info=ours)  # fmt: skip
            # Its slots are ours again only when it has stopped using them: see `messages`.
            dropped = True
            self._leases.waits_no_more(number)
            writer.write_eof()
            while await reader.read(_READ_BYTES):
                pass
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            log.info("engine gone engine=%s pid=%d connection=%d", entry.engine, entry.pid, number)

    def _handle(
        self,
        number: int,
        entry: EngineEntry,
        send: Callable[[AgentMessage], None],
        message: EngineMessage,
    ) -> None:
        """Raises PeerError for what this engine may not say."""
        rank = entry.layout.tp_rank
        match message:
            case ExportSlot():
                self._exports.slot(number, rank, message)
            case LeaseSlots(count) if count > 0:
                self._leases.lease(number, count, lambda slots: send(SlotsLeased(slots)))
            case ReturnSlots(slots):
                self._leases.return_slots(number, slots)
            case BeginExport():
                self._exports.begin(number, entry, message, send)
            case FinishExport(transfer_id):
                self._exports.finish(number, rank, transfer_id)
            case AbortExport(transfer_id, reason):
                self._exports.abort(number, rank, transfer_id, reason)
            case OpenImport():
                self._imports.open(number, entry, message, send)
            case CloseImport(transfer_id):
                self._imports.close(number, transfer_id)
            case _:
                raise PeerError(f"unexpected {message}")


def _listen(path: Path) -> socket.socket:
    """A listening socket that only this user can reach; a dead agent's leftover is replaced."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
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
