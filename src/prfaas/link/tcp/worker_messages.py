"""What an agent and its link workers say to each other.

Each worker has one *control* pipe, and each connection that it carries has one of its own, so that
the end of either process, however it comes, is the end of every pipe and so of every connection.
The books are the agent's: a worker knows bytes, extents of the arena and checksums only.
"""

from __future__ import annotations

import array
import contextlib
import select
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Generic, TypeVar

import msgspec

from prfaas.core.errors import UNREADABLE, LinkError
from prfaas.link.protocol.frames import Hello, Kind, Welcome

MOST_INLINE_BYTES = 32 * 1024
"""Of frames in one message, from when on no other is added: a frame has at most 4140 bytes."""
_MOST_BYTES = 128 * 1024
"""Of a message; far below what a socket of this kind takes at once."""
_MOST_FDS = 2

Extent = tuple[int, int]
"""(offset, length) in the arena. Any bytes will do where the offset is below 0: a link test's."""


_U32 = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
_U64 = Annotated[int, msgspec.Meta(ge=0)]
HeardFrame = tuple[Kind, _U32, _U32, _U64, _U64, _U64, bytes]
"""The fields of a `Header`, then the body."""


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The base of the messages below."""


# The control pipe, to the worker.


class Settings(Message, frozen=True):
    """The first message; comes with the arena's descriptor."""

    name: str
    incarnation: int
    tls: tuple[str, str, str, str | None, str] | None
    """The fields of `TlsFiles`; None: plaintext."""
    whole: bool
    """Whether the agent could read all of these; else who is revoked is all that is new."""
    accept_from: tuple[str, ...] | None
    max_chunk_bytes: int
    max_pending_connections: int
    handshake_timeout_s: float
    keepalive_s: float
    dscp: int


class Incoming(Message, frozen=True):
    """A connection that was accepted, with its descriptor; nobody has looked at it yet."""

    host: str
    port: int


class Outgoing(Message, frozen=True):
    """A connection that was made, with its descriptor and that of its pipe: introduce us."""

    hello: Hello
    address: str


# The control pipe, to the agent.


class Admitted(Message, frozen=True):
    """An incoming connection has said who it is; comes with the descriptor of its pipe."""

    hello: Hello


class Told(Message, frozen=True):
    """Connections that were turned away, by cause, since the start; how many are pending."""

    turned_away: Mapping[str, int]
    pending: int


class Logged(Message, frozen=True):
    """A line for the log. ``cause``: workers say it once a second all together, else always."""

    level: int
    logger: str
    line: str
    cause: str = ""


# A connection's pipe, to the worker.


class Order(Message, frozen=True):
    """Write these, in order: frames, and extents after their DATA headers, whose digests are the
    worker's to compute."""

    items: list[bytes | Extent]


class Answer(Message, frozen=True):
    """Write ``output``. ``target``: where the payload that follows goes; empty: nowhere; None: this
    answers no DATA header."""

    output: bytes
    target: list[Extent] | None = None


# A connection's pipe, to the agent.


class Introduced(Message, frozen=True):
    """Both sides of an outgoing connection have agreed."""

    welcome: Welcome


class NotIntroduced(Message, frozen=True):
    """They have not. ``peer``: because of who is there, else because of the line."""

    why: str
    peer: bool


class Progress(Message, frozen=True):
    """``written``: all of the latest order; ``input``: what the peer has replied."""

    written: bool
    input: bytes


class Heard(Message, frozen=True):
    """What a sender has said: headers with their bodies, a DATA header before its payload, and for
    each payload that has arrived whether its checksum is right."""

    items: list[HeardFrame | bool]


class Ended(Message, frozen=True):
    """The connection is closed and its memory let go; ``why`` is empty where it ended in peace."""

    why: str
    peer: bool = False


ToWorker = Settings | Incoming | Outgoing
ToAgent = Admitted | Told | Logged
ToConnection = Order | Answer
FromConnection = Introduced | NotIntroduced | Progress | Heard | Ended

Said = TypeVar("Said", bound=Message)
_encode = msgspec.msgpack.Encoder().encode


class Pipe(Generic[Said]):
    """One end: whole messages in order. One thread receives; any may send."""

    def __init__(self, sock: socket.socket, expected: object) -> None:
        self._socket = sock
        self._decode = msgspec.msgpack.Decoder(expected).decode
        self._buffer = memoryview(bytearray(_MOST_BYTES))
        self.ended = False

    def fileno(self) -> int:
        """For `select`."""
        return self._socket.fileno()

    def send(self, message: Message, fds: Sequence[int] = (), *, wait: bool = True) -> None:
        """Raises LinkError where the other end is gone, BlockingIOError where it must not wait."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._socket.sendmsg([_encode(message)], rights, 0 if wait else socket.MSG_DONTWAIT)
        except BlockingIOError:
            raise
        except OSError as error:
            raise LinkError(f"the other end of a pipe between link processes: {error}") from error

    def receive(self, *, wait: bool = False) -> Said | None:
        """The next message; None where there is none now, or where the other end is gone
        (``ended``). Raises LinkError for what is none."""
        message = self._take(0 if wait else socket.MSG_DONTWAIT)
        return None if message is None else self._read(message)

    def _take(self, flags: int) -> memoryview | None:
        try:
            count = self._socket.recv_into(self._buffer, 0, flags)
        except BlockingIOError:
            return None
        except OSError:
            count = 0
        if not count:
            self.ended = True
            return None
        return self._buffer[:count]

    def _read(self, message: bytes | memoryview) -> Said:
        try:
            return self._decode(message)  # type: ignore[no-any-return]
        except UNREADABLE as error:
            raise LinkError(f"a link process says what is no message: {error}") from error

    def receive_with_fds(self, *, wait: bool) -> tuple[Said, list[int]] | None:
        """The same, with the descriptors that came with it. Raises LinkError likewise."""
        flags = socket.MSG_CMSG_CLOEXEC | (0 if wait else socket.MSG_DONTWAIT)
        try:
            # `socket.recv_fds` does not pass its flags on (Python 3.11).
            room = socket.CMSG_SPACE(_MOST_FDS * array.array("i").itemsize)
            data, rights, _, _ = self._socket.recvmsg(_MOST_BYTES, room, flags)
        except BlockingIOError:
            return None
        except OSError:
            data, rights = b"", []
        if not data:
            self.ended = True
            return None
        fds = array.array("i")
        for _, _, raw in rights:
            fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
        return self._read(data), list(fds)

    def end(self) -> None:
        """Say no more: the other end is to let go. It does so by closing."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def wait_for_end(self, timeout_s: float) -> bool:
        """Has the other end let go, within the time? What it still says is dropped."""
        until = time.monotonic() + timeout_s
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        while not self.ended:
            left_s = until - time.monotonic()
            if left_s <= 0 or not poll.poll(left_s * 1000):
                return False
            self._take(socket.MSG_DONTWAIT)
        return True

    def close(self) -> None:
        """The other end notices."""
        self._socket.close()


def pipe_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends, for `Pipe`."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
