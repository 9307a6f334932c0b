"""One registered connection of an engine rank to its agent: socket, mapped arena, lent slots.

Not thread-safe: `AgentClient` calls every method under its lock, except `receive`, which only its
background thread calls.
"""

from __future__ import annotations

import mmap
import os
import socket
import struct
from collections import deque
from collections.abc import Callable

from prfaas.core.errors import PeerError
from prfaas.engine_socket.errors import RegistrationRefused
from prfaas.engine_socket.framing import FrameBuffer, decode_from_agent, encode
from prfaas.engine_socket.import_book import ImportBook
from prfaas.engine_socket.load_book import LoadBook
from prfaas.engine_socket.messages import (
    AgentMessage,
    EngineMessage,
    Refused,
    Registered,
    RegisterEngine,
)

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid
_RECEIVE_BYTES = 256 * 1024


class Session:
    """State of one connection. The socket is closed only when callers touch nothing in its arena
    any more (no leased slot is out, no import is open), because the end of the connection tells
    the agent that the memory may serve others."""

    def __init__(self, sock: socket.socket, registered: Registered, arena_fd: int) -> None:
        self.slot_bytes, self.slot_count = registered.slot_bytes, registered.slot_count
        size = self.slot_bytes * self.slot_count
        try:
            # The mapping lives as long as any view of it: a copy in progress outlasts the agent.
            self.arena = memoryview(mmap.mmap(arena_fd, size))
        except (ValueError, OverflowError) as error:
            raise PeerError(f"the agent's arena has not the {size} bytes it says") from error
        finally:
            os.close(arena_fd)
        self.stock: deque[int] = deque()
        self.lease_asked = False
        self.slots_out = 0
        self.imports = ImportBook(size)
        self.loads = LoadBook(size)
        self.lost: str | None = None
        self.when_unused: Callable[[], object] | None = None
        """Called when nothing touches the arena any more; possibly more than once."""
        self._sock = sock
        self._frames = FrameBuffer()
        self._outbox = bytearray()
        sock.setblocking(False)

    def fileno(self) -> int:
        """Of the socket, to poll."""
        return self._sock.fileno()

    @property
    def wants_write(self) -> bool:
        """Whether `flush` has something left."""
        return bool(self._outbox)

    def send(self, message: EngineMessage) -> bool:
        """Send at once what the socket takes. True if a rest waits for `flush`.

        Never blocks: the rest is bounded by the slots and imports that messages can speak of.
        """
        self._outbox += encode(message)
        return self.flush()

    def flush(self) -> bool:
        """Send more of the outbox; True if a rest remains. A broken socket shows in `receive`."""
        try:
            while self._outbox:
                sent = self._sock.send(self._outbox)
                del self._outbox[:sent]
        except BlockingIOError:
            return True
        except OSError:
            self._outbox.clear()
        return bool(self._outbox)

    def receive(self) -> list[AgentMessage]:
        """Messages that have arrived. Raises ConnectionError at the end of the stream and
        PeerError for nonsense."""
        try:
            data = self._sock.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return []
        if not data:
            raise ConnectionResetError("agent closed the connection")
        return [decode_from_agent(body) for body in self._frames.feed(data)]

    def lose(self, reason: str) -> None:
        """The connection is of no more use."""
        self.lost = reason
        self._outbox.clear()
        self.close_if_unused()

    def close_if_unused(self) -> None:
        """To be called after every hand-back."""
        if self.lost is None or self.slots_out:
            return
        if not len(self.imports) and not len(self.loads):
            self._sock.close()
            if self.when_unused is not None:
                self.when_unused()


def open_session(
    sock: socket.socket, path: str, register: RegisterEngine, *, timeout_s: float
) -> Session:
    """Connect ``sock`` (a new Unix stream socket, closed on failure) and register.

    Raises OSError if the agent is not there, RegistrationRefused if it declines, PeerError if it
    does not speak our language.
    """
    try:
        sock.settimeout(timeout_s)
        sock.connect(path)
        _check_user(sock, path)
        sock.sendall(encode(register))
        answer, fds = _first_answer(sock)
        if isinstance(answer, Refused):
            raise RegistrationRefused(f"agent refused engine {register.engine!r}: {answer.reason}")
        if not isinstance(answer, Registered) or len(fds) != 1:
            raise PeerError("agent answered the registration with something else")
        return Session(sock, answer, fds[0])
    except BaseException:
        sock.close()
        raise


def _check_user(sock: socket.socket, path: str) -> None:
    """Raise PeerError for an agent of another user, to whom KV caches would be shown. Engines of
    root's trust whoever has the path."""
    uid = _peer_uid(sock)
    if os.getuid() != 0 and uid not in (0, os.getuid()):
        raise PeerError(f"user {uid} listens at {path}; this engine is user {os.getuid()}'s")


def _peer_uid(sock: socket.socket) -> int:
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(credentials)[1])


def _first_answer(sock: socket.socket) -> tuple[AgentMessage, list[int]]:
    frames, fds = FrameBuffer(), []
    while True:
        data, new_fds, _, _ = socket.recv_fds(sock, 64 * 1024, 4)
        fds += new_fds
        if not data:
            raise ConnectionResetError("agent closed the connection")
        bodies = frames.feed(data)
        if bodies:
            return decode_from_agent(bodies[0]), fds
