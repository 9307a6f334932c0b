"""An agent's link workers: how many there are, and which carries a connection."""

from __future__ import annotations

import logging
import math
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

from prfaas.core.errors import LinkError
from prfaas.core.once_a_second import OnceASecond
from prfaas.link.protocol.frames import Hello
from prfaas.link.protocol.worker_tuner import Load, WorkerTuner
from prfaas.link.tcp.config import WORKER_CORES, TcpLinkConfig
from prfaas.link.tcp.cores import usable_cores
from prfaas.link.tcp.dialing import Dialled
from prfaas.link.tcp.serving_loop import ServingLoop
from prfaas.link.tcp.shared_memory import SharedMemory
from prfaas.link.tcp.worker import Admit, Worker
from prfaas.link.tcp.worker_messages import Settings
from prfaas.tls.files import TlsFiles
from prfaas.tls.live import LiveTls

log = logging.getLogger(__name__)

_LOOK_S = 1.0
_PAUSE_S = 1.0
"""Where one has died before it came up, none is started for so long."""


def may_have_workers(config: TcpLinkConfig) -> bool:
    """Else nothing of them costs anything."""
    if config.workers is None:
        return usable_cores() >= WORKER_CORES
    return config.workers > 0


class Workers:
    """``tick`` from one thread; the rest from any. ``moved_bytes`` says what the link has moved so
    far, both ways; ``spread`` is called when there are more workers than before, and each second
    while connections that the agent began before may still come up: those that it serves itself
    should be made anew; ``lines``: as in `Worker`."""

    def __init__(
        self,
        config: TcpLinkConfig,
        memory: SharedMemory,
        incarnation: int,
        tls: LiveTls | None,
        *,
        admit: Admit,
        moved_bytes: Callable[[], int],
        spread: Callable[[], None],
        lines: OnceASecond,
    ) -> None:
        self._config, self._incarnation, self._tls = config, incarnation, tls
        self.memory = memory
        self._admit, self._moved_bytes, self._spread = admit, moved_bytes, spread
        self._lines = lines
        self._loop = ServingLoop()
        self._lock = threading.Lock()
        self._workers: list[Worker] = []
        self._started = self._ready = 0
        self._start_at = 0.0
        self._past: Counter[str] = Counter()
        """Of workers that are gone: whom they, or we for them, turned away."""
        self.accept_from = config.accept_from
        self._version = 0 if tls is None else tls.version
        most = min(config.most_workers, int(usable_cores() / 2))
        self._tuner = WorkerTuner(fixed=config.workers, most=most)
        self._meter = _Meter()
        self._look_at = time.monotonic() + _LOOK_S
        self._spread_until = 0.0
        self._scale(self._tuner.count)

    @property
    def count(self) -> int:
        """How many carry connections now."""
        return sum(worker.alive and worker.ready for worker in self._living())

    @property
    def ready(self) -> bool:
        """Whether there are as many as there should be."""
        return self.count == self._tuner.count

    @property
    def connections(self) -> int:
        """How many they carry, or have not let go."""
        return sum(worker.connections for worker in self._living())

    @property
    def pending(self) -> int:
        """Connections that have not said who they are, in all of them."""
        return sum(worker.told.pending for worker in self._living())

    @property
    def turned_away(self) -> Mapping[str, int]:
        """Connections that were refused, by cause."""
        total = Counter(self._past)
        for worker in self._living():
            total.update(worker.turned_away)
        return total

    def cpu_s(self) -> float:
        """CPU seconds of those that live."""
        return sum(worker.cpu_s() for worker in self._living())

    def pids(self) -> list[int]:
        """Of those that live."""
        return [worker.process.pid for worker in self._living()]

    def take(self, sock: socket.socket, host: str, port: int) -> bool:
        """Hand over a connection that was accepted, to the worker with the fewest."""
        worker = self._idlest()
        return worker is not None and worker.take(sock, host, port)

    def dialler(self) -> Callable[[socket.socket, Hello, str], Dialled] | None:
        """Who introduces us over a connection that was made, and carries it; None: we ourselves."""
        worker = self._idlest()
        if worker is None:
            return None

        def dial(sock: socket.socket, hello: Hello, address: str) -> Dialled:
            return worker.dial(sock, hello, address, self._config.handshake_timeout_s)

        return dial

    def tick(self, *, now: float) -> None:
        """Start those that have died anew; as many as the line and the cores ask for."""
        self._bury(now)
        if self._tls is not None and self._tls.version != self._version:
            self._version = self._tls.version
            self._renew()
        looks = now >= self._look_at
        if looks:
            self._look_at = now + _LOOK_S
            load = self._meter.load(self._living(), self._moved_bytes(), now)
            if load is not None:
                self._tuner.observe(load, now=now)
        if now >= self._start_at and self._can_read():
            self._scale(self._tuner.count)
        before, self._ready = self._ready, self.count
        if self._ready > before:
            self._level()
            # A dial connects and introduces us, and each may take so long.
            self._spread_until, looks = now + 2 * self._config.handshake_timeout_s, True
        if looks and self._ready and now < self._spread_until:
            self._spread()

    def push_from(self, names: frozenset[str] | None) -> None:
        """See `TcpLinkConfig.accept_from`."""
        self.accept_from = names
        self._renew()

    def close(self) -> None:
        """End all."""
        with self._lock:
            workers, self._workers = self._workers, []
        for worker in workers:
            worker.stop()
        self._loop.close()

    def _can_read(self) -> bool:
        """Whether a worker that begins now could read the certificates."""
        return self._tls is None or self._tls.whole

    def _living(self) -> list[Worker]:
        with self._lock:
            return list(self._workers)

    def _idlest(self) -> Worker | None:
        living = [worker for worker in self._living() if worker.alive and worker.ready]
        return min(living, key=lambda worker: (worker.connections, worker.given), default=None)

    def _level(self) -> None:
        """Whoever came up first has got the connections of all."""
        ready = [worker for worker in self._living() if worker.alive and worker.ready]
        fair = math.ceil(sum(worker.connections for worker in ready) / max(len(ready), 1))
        for worker in ready:
            worker.surplus = max(0, worker.connections - fair)

    def _bury(self, now: float) -> None:
        for worker in self._living():
            if not worker.alive:
                log.warning("link worker %d has died; its connections are made anew", worker.number)
                if not worker.ready:
                    self._start_at = now + _PAUSE_S
                self._remove(worker)

    def _remove(self, worker: Worker) -> None:
        with self._lock:
            if worker in self._workers:
                self._workers.remove(worker)
                self._past.update(worker.turned_away)

    def _renew(self) -> None:
        for worker in self._living():
            worker.renew(self._settings())

    def _scale(self, count: int) -> None:
        living = self._living()
        for worker in living[count:]:
            self._remove(worker)
            worker.stop()
        for _ in range(count - len(living)):
            try:
                self._started += 1
                fresh = Worker(
                    self._started,
                    self._settings(),
                    self.memory,
                    self._admit,
                    self._loop,
                    self._lines,
                )
            except (OSError, LinkError) as error:
                log.warning("no link worker can be started: %s", error)
                self._tuner.cannot(now=time.monotonic())
                return
            with self._lock:
                self._workers.append(fresh)

    def _settings(self) -> Settings:
        config, tls = self._config, self._tls
        files: TlsFiles | None = None if tls is None else tls.files
        accepted = self.accept_from
        return Settings(
            config.name,
            self._incarnation,
            None if files is None else _paths(files),
            self._can_read(),
            None if accepted is None else tuple(sorted(accepted)),
            config.max_chunk_bytes,
            config.max_pending_connections,
            config.handshake_timeout_s,
            config.keepalive_s,
            config.dscp,
        )


def _paths(files: TlsFiles) -> tuple[str, str, str, str | None, str]:
    crl = None if files.crl is None else str(files.crl)
    return str(files.ca), str(files.cert), str(files.key), crl, files.names


class _Meter:
    """What this machine's cores and these processes did since it was asked last."""

    def __init__(self) -> None:
        self._last: tuple[float, float, float, float, int] | None = None

    def load(self, workers: list[Worker], moved: int, now: float) -> Load | None:
        own_s = time.process_time()
        workers_s = sum(worker.cpu_s() for worker in workers)
        fresh = now, own_s, workers_s, _idle_s(), moved
        last, self._last = self._last, fresh
        if last is None or now <= last[0]:
            return None
        passed, own, theirs, idle, bytes_ = (a - b for a, b in zip(fresh, last, strict=True))
        # One that has ended takes its seconds with it.
        return Load(bytes_ / passed, own / passed, max(0.0, theirs) / passed, idle / passed)


def _idle_s() -> float:
    """Core seconds since its start that this machine has not used."""
    try:
        with open("/proc/stat") as file:
            fields = file.readline().split()
    except OSError:
        return 0.0
    return (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK")
