"""One link worker process, as the agent has it."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable

from prfaas.core.errors import LinkError, PeerError
from prfaas.core.once_a_second import OnceASecond
from prfaas.link.protocol.frames import Hello, Kind, reason
from prfaas.link.tcp.dialing import Dialled
from prfaas.link.tcp.pending_connection import kind_of
from prfaas.link.tcp.remote_channel import LET_GO_S, RemoteChannel
from prfaas.link.tcp.serving_loop import ServingLoop
from prfaas.link.tcp.shared_memory import SharedMemory
from prfaas.link.tcp.worker_messages import (
    Admitted,
    Answer,
    FromConnection,
    Incoming,
    Introduced,
    Logged,
    NotIntroduced,
    Outgoing,
    Pipe,
    Settings,
    ToAgent,
    Told,
    pipe_pair,
)

log = logging.getLogger(__name__)

_PROGRAM = "prfaas.link.tcp.worker_process"

Admit = Callable[["Worker", Pipe[FromConnection], Hello], None]


class DoorLines(OnceASecond):
    """Of the log, on who is turned away at a door that several threads keep."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()

    def times(self, cause: Hashable, now: float) -> int:
        """See `OnceASecond`."""
        with self._lock:
            return super().times(cause, now)


class Worker:
    """Starts the process; ``admit`` is called for each incoming connection that has said who it is,
    and may raise PeerError. ``connections`` counts those that it carries or has not let go,
    ``given`` all that it ever got, ``surplus`` those that others should have; ``ready``: it has
    come up. ``lines`` of the log on who is turned away are those of all workers."""

    def __init__(
        self,
        number: int,
        settings: Settings,
        memory: SharedMemory,
        admit: Admit,
        loop: ServingLoop,
        lines: OnceASecond,
    ) -> None:
        self.loop, self.surplus = loop, 0
        self.number, self.connections, self.given = number, 0, 0
        self.alive, self.ready = True, False
        self.told, self._lines = Told({}, 0), lines
        self._refused = Counter[str]()
        """Whom it has let in, and we have not, by cause."""
        self.memory, self._admit = memory, admit
        self._lock = threading.Lock()
        ours, theirs = pipe_pair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", _PROGRAM, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._control: Pipe[ToAgent] = Pipe(ours, ToAgent)
        self._control.send(settings, [memory.fd])
        self._thread = threading.Thread(
            target=self._listen, name=f"kv-link-worker-{number}", daemon=True
        )
        self._thread.start()

    @property
    def turned_away(self) -> Counter[str]:
        """How many, by cause."""
        return self._refused + Counter(self.told.turned_away)

    def cpu_s(self) -> float:
        """CPU seconds that it has used; 0 where nobody says."""
        try:
            with open(f"/proc/{self.process.pid}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def renew(self, settings: Settings) -> None:
        """Others may push from now on; certificates are read again."""
        with contextlib.suppress(LinkError):
            self._control.send(settings)

    def take(self, sock: socket.socket, host: str, port: int) -> bool:
        """Hand over a connection that was accepted; False where it is not taken."""
        try:
            self.given += 1
            self._control.send(Incoming(host, port), [sock.fileno()], wait=False)
        except (LinkError, BlockingIOError):
            return False
        return True

    def dial(self, sock: socket.socket, hello: Hello, address: str, timeout_s: float) -> Dialled:
        """Let it introduce us over a connection that was made, and carry it. Raises LinkError or
        PeerError; the connection is then closed."""
        ours, theirs = pipe_pair()
        pipe: Pipe[FromConnection] = Pipe(ours, FromConnection)
        channel = RemoteChannel(sock, pipe, self.memory, self.count(), self.loop, self.gives_up)
        said: FromConnection | None = None
        try:
            self.given += 1
            with theirs:
                self._control.send(Outgoing(hello, address), [sock.fileno(), theirs.fileno()])
            ours.settimeout(timeout_s)
            said = pipe.receive(wait=True)
            ours.settimeout(None)
        finally:
            if not isinstance(said, Introduced):
                channel.close()
        match said:
            case Introduced(welcome):
                return Dialled(channel, welcome, hello.connection)
            case NotIntroduced(why, peer):
                raise (PeerError if peer else LinkError)(why)
            case _:
                raise LinkError("a link worker died, or did not answer, while it introduced us")

    def count(self) -> Callable[[bool], None]:
        """Count a connection; the result is to be called once it is let go, or with False where it
        is not: nobody may use its memory before this process is gone."""
        with self._lock:
            self.connections += 1
        return self._let_go

    def gives_up(self) -> bool:
        """Whether one of its connections is to be made anew, of the ``surplus`` it has now."""
        with self._lock:
            gives = self.surplus > 0
            self.surplus -= gives
        return gives

    def _let_go(self, in_time: bool) -> None:
        with self._lock:
            self.connections -= 1
        if not in_time:
            log.error("link worker %d does not let go of memory: it is ended", self.number)
            self.kill()

    def kill(self) -> None:
        """At once; its connections are lost. Returns when it is gone."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """The same, and nothing more is heard of it."""
        self.kill()
        self._thread.join(LET_GO_S)

    def _listen(self) -> None:
        try:
            while (got := self._control.receive_with_fds(wait=True)) is not None:
                self._heard(*got)
        except Exception:
            log.exception("a fault of ours with link worker %d: it is ended", self.number)
        self.alive = False
        self._control.close()
        self.kill()

    def _heard(self, message: ToAgent, fds: list[int]) -> None:
        match message:
            case Admitted(hello):
                pipe: Pipe[FromConnection] = Pipe(socket.socket(fileno=fds[0]), FromConnection)
                try:
                    self._admit(self, pipe, hello)
                except PeerError as error:
                    self._turned_away(hello.name, error)
                    with contextlib.suppress(LinkError):
                        pipe.send(Answer(reason(Kind.REJECT, str(error))))
                    pipe.close()
            case Told():
                self.told, self.ready = message, True
            case Logged(level, logger, line, cause):
                if not cause or self._lines.times(cause, time.monotonic()):
                    logging.getLogger(logger).log(level, "link worker %d: %s", self.number, line)

    def _turned_away(self, name: str, error: PeerError) -> None:
        kind = kind_of(error)
        self._refused[kind] += 1
        if times := self._lines.times(kind, time.monotonic()):
            log.warning("turned away %s (%s, %d times): %s", name, kind, times, error)
