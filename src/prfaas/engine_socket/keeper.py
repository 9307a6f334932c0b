"""The background thread that keeps an engine rank connected to its agent."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from typing import Protocol

from prfaas.core.errors import PrfaasError
from prfaas.engine_socket.messages import AgentMessage, RegisterEngine
from prfaas.engine_socket.session import Session, open_session

_CONNECT_TIMEOUT_S = 5.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 2.0


class Listener(Protocol):
    """Is told, on the keeper's thread and without the lock, what happens to the connection."""

    def registered(self, session: Session) -> None: ...

    def absent(self, error: Exception) -> None:
        """An attempt to connect failed; more will follow, with growing pauses."""

    def received(self, session: Session, message: AgentMessage) -> None:
        """May raise PeerError: the connection is then given up."""

    def lost(self, session: Session, reason: str) -> None: ...


class SessionKeeper:
    """Connects, registers, reads, sends what the socket would not take at once, and begins anew
    when the agent goes away. ``lock`` guards every session."""

    def __init__(
        self, path: str, register: RegisterEngine, lock: threading.Condition, listener: Listener
    ) -> None:
        self._path, self._register = path, register
        self._lock, self._listener = lock, listener
        self._closing = False
        self._connecting: socket.socket | None = None
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="prfaas-agent-client", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """A session has something left to send."""
        os.eventfd_write(self._wake_fd, 1)

    def close(self) -> None:
        """End the connection (or the attempt) and the thread."""
        with self._lock:
            self._closing = True
            self._lock.notify_all()
            self.wake()
            connecting = self._connecting  # its thread may end the attempt at any moment
            if connecting is not None:
                with contextlib.suppress(OSError):
                    connecting.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        os.close(self._wake_fd)

    def _run(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while not self._closing:
            session = self._connect()
            if session is None:
                with self._lock:
                    self._lock.wait_for(lambda: self._closing, pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                continue
            pause_s = _FIRST_PAUSE_S
            self._listener.registered(session)
            self._listener.lost(session, self._serve(session))

    def _connect(self) -> Session | None:
        with self._lock:
            if self._closing:
                return None
            self._connecting = sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            return open_session(sock, self._path, self._register, timeout_s=_CONNECT_TIMEOUT_S)
        except (OSError, PrfaasError) as error:
            self._listener.absent(error)
            return None
        finally:
            self._connecting = None

    def _serve(self, session: Session) -> str:
        """Read and write until the connection ends; returns why it did."""
        poller = select.poll()
        poller.register(self._wake_fd, select.POLLIN)
        while True:
            events = select.POLLIN | (select.POLLOUT if session.wants_write else 0)
            poller.register(session.fileno(), events)
            for fd, _ in poller.poll():
                if fd == self._wake_fd:
                    os.eventfd_read(fd)
            if self._closing:
                return "closed"
            try:
                with self._lock:
                    session.flush()
                for message in session.receive():
                    self._listener.received(session, message)
            except (OSError, PrfaasError) as error:
                return f"agent went away: {error}"
