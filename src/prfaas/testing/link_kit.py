"""A receiving agent made of plain memory, and a proxy that mistreats a KV link's connections."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Sequence

from prfaas.core.addresses import parse_address
from prfaas.core.errors import LinkError
from prfaas.link.api import Reception, Refusal, TransferKey, TransferOffer


class MemoryReception:
    """One transfer's memory (`Reception`), in pieces of ``piece_bytes``."""

    def __init__(self, total_bytes: int, piece_bytes: int) -> None:
        self.data = bytearray(total_bytes)
        self._piece_bytes = piece_bytes

    def views(self, flat_offset: int, length: int) -> Sequence[memoryview]:
        """The range, in pieces."""
        view, end = memoryview(self.data), flat_offset + length
        starts = range(flat_offset, end, self._piece_bytes)
        return [view[start : min(start + self._piece_bytes, end)] for start in starts]


class MemorySink:
    """A `TransferSink` that keeps everything and lets tests wait for outcomes.

    ``answers`` are given to offers in order before memory is; ``stored`` lists (key, offset,
    length) as reported.
    """

    def __init__(self, *, piece_bytes: int = 96 * 1024) -> None:
        self.answers: list[Refusal] = []
        self.receptions: dict[TransferKey, MemoryReception] = {}
        self.stored_ranges: list[tuple[TransferKey, int, int]] = []
        self.outcomes: dict[TransferKey, str] = {}
        self.peers: list[str] = []
        self._piece_bytes = piece_bytes
        self._changed = threading.Condition()

    def offered(self, peer: str, offer: TransferOffer) -> Reception | Refusal:
        """The next of ``answers``, or memory."""
        with self._changed:
            self.peers.append(peer)
            if self.answers:
                return self.answers.pop(0)
            reception = MemoryReception(offer.total_bytes, self._piece_bytes)
            self.receptions[offer.key] = reception
            return reception

    def stored(self, key: TransferKey, flat_offset: int, length: int) -> None:
        """Kept in ``stored_ranges``."""
        with self._changed:
            self.stored_ranges.append((key, flat_offset, length))
            self._changed.notify_all()

    def completed(self, key: TransferKey) -> None:
        """The outcome ``complete``."""
        self._end(key, "complete")

    def failed(self, key: TransferKey, reason: str) -> None:
        """The outcome is the reason."""
        self._end(key, reason)

    def withdrawn(self, key: TransferKey, reason: str) -> None:
        """The outcome is the reason, after ``withdrawn:``."""
        self._end(key, f"withdrawn: {reason}")

    def outcome(self, key: TransferKey, timeout_s: float = 60.0) -> str:
        """``"complete"`` or why it failed. Raises LinkError when neither comes in time."""
        with self._changed:
            if not self._changed.wait_for(lambda: key in self.outcomes, timeout_s):
                raise LinkError(f"no outcome of {key} after {timeout_s} s")
            return self.outcomes[key]

    def wait_stored(self, count: int, timeout_s: float = 60.0) -> None:
        """Wait until ``count`` bytes are stored. Raises LinkError."""
        with self._changed:
            enough = self._changed.wait_for(
                lambda: sum(length for _, _, length in self.stored_ranges) >= count, timeout_s
            )
        if not enough:
            raise LinkError(f"fewer than {count} bytes stored after {timeout_s} s")

    def _end(self, key: TransferKey, outcome: str) -> None:
        with self._changed:
            if key in self.outcomes:
                raise AssertionError(f"{key} ended twice: {self.outcomes[key]}, then {outcome}")
            self.outcomes[key] = outcome
            self._changed.notify_all()


class FaultyProxy:
    """A TCP proxy before ``target``: kills connections, flips bits, holds bytes back."""

    def __init__(self, target: str, *, seed: int = 0) -> None:
        self._target = parse_address(target)
        self._random = random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self._go = threading.Event()
        self._go.set()
        self.flip_every_bytes: int | None = None
        self.killed = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        """``host:port`` to dial instead of the target."""
        host, port = self._listener.getsockname()
        return f"{host}:{port}"

    @property
    def open_connections(self) -> int:
        """How many are being relayed."""
        return len(self._pairs)

    def kill_one(self) -> bool:
        """Reset a random connection; False when none is open."""
        with self._lock:
            if not self._pairs:
                return False
            pair = self._pairs.pop(self._random.randrange(len(self._pairs)))
            self.killed += 1
        for sock in pair:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        return True

    def hold(self) -> None:
        """Pass no bytes on until ``release``."""
        self._go.clear()

    def release(self) -> None:
        """Pass bytes on again."""
        self._go.set()

    def close(self) -> None:
        """Reset every connection and stop listening."""
        self._go.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        while self.kill_one():
            pass

    def _accept(self) -> None:
        while True:
            try:
                inner, _ = self._listener.accept()
            except OSError:
                return
            try:
                outer = socket.create_connection(self._target)
            except OSError:
                inner.close()
                continue
            with self._lock:
                self._pairs.append((inner, outer))
            for source, sink, faulty in ((inner, outer, True), (outer, inner, False)):
                arguments = (source, sink, faulty)
                threading.Thread(target=self._relay, args=arguments, daemon=True).start()

    def _relay(self, source: socket.socket, sink: socket.socket, faulty: bool) -> None:
        passed = 0
        try:
            while data := bytearray(source.recv(256 * 1024)):
                self._go.wait()
                every = self.flip_every_bytes
                if faulty and every is not None and (passed + len(data)) // every > passed // every:
                    data[self._random.randrange(len(data))] ^= 1 << self._random.randrange(8)
                passed += len(data)
                sink.sendall(data)
        except OSError:
            pass
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        if faulty:
            source.close()
            sink.close()
