"""A link worker: ``python -m prfaas.link.tcp.worker_process DESCRIPTOR``, started by an agent.

It carries connections that the agent hands it, over memory that both have mapped, so that payload
is encrypted, summed and copied beside the agent's interpreter and not under its lock. It keeps no
books: when it dies, its connections are lost, and nothing else. It ends when the agent does.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from prfaas.core.errors import ConfigError, LinkError, PeerError
from prfaas.link.protocol.frames import Hello
from prfaas.link.tcp.acceptor import Acceptor
from prfaas.link.tcp.channel import Carrier, Channel
from prfaas.link.tcp.config import Plaintext, TcpLinkConfig
from prfaas.link.tcp.dialing import introduce
from prfaas.link.tcp.pending_connection import reject
from prfaas.link.tcp.shared_memory import SharedMemory, map_shared
from prfaas.link.tcp.worker_messages import (
    Admitted,
    Answer,
    Ended,
    Incoming,
    Introduced,
    Logged,
    Message,
    NotIntroduced,
    Order,
    Outgoing,
    Pipe,
    Settings,
    ToConnection,
    Told,
    ToWorker,
    pipe_pair,
)
from prfaas.link.tcp.worker_receiving import Storing
from prfaas.link.tcp.worker_sending import carry
from prfaas.tls.files import TlsFiles
from prfaas.tls.live import LiveTls

log = logging.getLogger(__name__)

_TICK_S = 0.05
_TELL_S = 0.5
"""Between two looks at who is trusted no more, and at what the agent is to be told."""


class Worker:
    """One process's work. As a `listener.Listener` it gives what the agent hands over."""

    def __init__(self, control: Pipe[ToWorker], settings: Settings, memory: SharedMemory) -> None:
        self.control, self._memory = control, memory
        self._settings = settings
        files = _files(settings)
        self.tls = None if files is None else LiveTls(files)
        self._config = TcpLinkConfig(
            name=settings.name,
            security=files or Plaintext(),
            accept_from=_names(settings),
            max_chunk_bytes=settings.max_chunk_bytes,
            max_pending_connections=settings.max_pending_connections,
            handshake_timeout_s=settings.handshake_timeout_s,
            keepalive_s=settings.keepalive_s,
            dscp=settings.dscp,
        )
        self.acceptor = Acceptor(
            self._config, settings.incarnation, self._admit, tls=self.tls, listener=self
        )

    def fileno(self) -> int:
        """See `listener.Listener`."""
        return self.control.fileno()

    def getsockname(self) -> tuple[str, int]:
        """See `listener.Listener`."""
        return "link-worker", 0

    def close(self) -> None:
        """See `listener.Listener`."""

    def accept(self) -> tuple[socket.socket, tuple[str, int]]:
        """See `listener.Listener`: the next that the agent hands over."""
        while True:
            got = self.control.receive_with_fds(wait=False)
            if got is None:
                if self.control.ended:
                    os._exit(0)
                raise BlockingIOError
            match got:
                case Incoming(host, port), [fd]:
                    return socket.socket(fileno=fd), (host, port)
                case Outgoing() as job, [fd, pipe_fd]:
                    self._dial(job, socket.socket(fileno=fd), socket.socket(fileno=pipe_fd))
                case Settings() as settings, _:
                    self._take(settings)

    def _take(self, settings: Settings) -> None:
        """Others may push from now on; certificates may have been exchanged. Whoever cannot read
        what the agent could has no say on whom to trust any more: it ends, with its connections."""
        self.acceptor.accept_from = _names(settings)
        files = _files(settings)
        if self.tls is not None and files is not None:
            try:
                if settings.whole:
                    self.tls.read(files)
                else:
                    self.tls.revoke(files)
            except ConfigError as error:
                log.error("ends, since it cannot read the agent's certificates: %s", error)
                os._exit(1)

    def end_untrusted(self) -> None:
        """Connections with those whose certificate has expired or been revoked."""
        if self.tls is not None:
            for line in self.tls.end_untrusted(now=time.time()):
                log.warning("%s", line)

    def _admit(self, channel: Channel, hello: Hello) -> None:
        ours, theirs = pipe_pair()
        with theirs:
            self.control.send(Admitted(hello), [theirs.fileno()])
        pipe: Pipe[Answer] = Pipe(ours, ToConnection)
        storing = Storing(
            channel,
            pipe,
            self._memory,
            max_chunk_bytes=self._config.max_chunk_bytes,
            silence_s=self._config.silence_s,
        )
        _start(f"in-{hello.name}-{hello.connection}", channel, pipe, storing.run)

    def _dial(self, job: Outgoing, sock: socket.socket, pipe_sock: socket.socket) -> None:
        pipe: Pipe[Order] = Pipe(pipe_sock, ToConnection)

        def work() -> None:
            try:
                dialled = introduce(
                    sock,
                    self.tls,
                    job.hello,
                    job.address,
                    timeout_s=self._config.handshake_timeout_s,
                )
            except (LinkError, PeerError) as error:
                with contextlib.suppress(LinkError):
                    pipe.send(NotIntroduced(str(error), isinstance(error, PeerError)))
                pipe.close()
                return
            channel = dialled.channel
            _run(channel, pipe, lambda: _carry(channel, pipe, dialled.welcome))

        def _carry(channel: Carrier, pipe: Pipe[Order], welcome: object) -> None:
            pipe.send(Introduced(welcome))  # type: ignore[arg-type]
            carry(channel, pipe, self._memory)

        threading.Thread(target=work, daemon=True, name=f"to-{job.hello.target}").start()


def _files(settings: Settings) -> TlsFiles | None:
    if settings.tls is None:
        return None
    ca, cert, key, crl, names = settings.tls
    return TlsFiles(Path(ca), Path(cert), Path(key), None if crl is None else Path(crl), names)


def _names(settings: Settings) -> frozenset[str] | None:
    return None if settings.accept_from is None else frozenset(settings.accept_from)


def _start(name: str, channel: Carrier, pipe: Pipe[Answer], work: Callable[[], None]) -> None:
    threading.Thread(target=_run, args=(channel, pipe, work), name=name, daemon=True).start()


def _run(channel: Carrier, pipe: Pipe[Answer] | Pipe[Order], work: Callable[[], None]) -> None:
    """Close both whatever comes, and say why first."""
    ended = Ended("")
    try:
        work()
    except (OSError, PeerError, LinkError) as error:
        ended = Ended(str(error), isinstance(error, PeerError))
        if isinstance(error, PeerError):
            reject(channel, str(error))
    except Exception as error:
        log.exception("a fault of ours in a link worker")
        ended = Ended(f"a fault of ours: {error!r}")
    finally:
        channel.close()
        with contextlib.suppress(LinkError):
            pipe.send(ended)
        pipe.close()


class _ToAgent(logging.Handler):
    """Log lines go to the agent, which has the log."""

    def __init__(self, send: Callable[[Message], None]) -> None:
        super().__init__()
        self._send = send
        self.setFormatter(logging.Formatter())

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        with contextlib.suppress(LinkError):
            cause = getattr(record, "cause", "")
            self._send(Logged(record.levelno, record.name, self.format(record), cause))


def main() -> None:
    """Serve the agent at the other end of the control pipe until it ends."""
    for number in (signal.SIGINT, signal.SIGHUP):  # A terminal tells all: the agent ends us.
        signal.signal(number, signal.SIG_IGN)
    control: Pipe[ToWorker] = Pipe(socket.socket(fileno=int(sys.argv[1])), ToWorker)
    logging.basicConfig(level=logging.INFO, handlers=[_ToAgent(control.send)])
    match control.receive_with_fds(wait=True):
        case Settings() as settings, [fd]:
            worker = Worker(control, settings, map_shared(fd))
        case _:
            return
    acceptor = worker.acceptor
    acceptor.start()
    told = Told({}, 0)
    control.send(told)
    tell_at = time.monotonic() + _TELL_S
    while acceptor.is_alive():
        time.sleep(_TICK_S)
        acceptor.tick(now=time.monotonic())
        if time.monotonic() < tell_at:
            continue
        tell_at = time.monotonic() + _TELL_S
        worker.end_untrusted()
        now = Told(dict(acceptor.turned_away), acceptor.pending)
        if now != told:
            with contextlib.suppress(LinkError):
                control.send(now)
            told = now


if __name__ == "__main__":
    main()
