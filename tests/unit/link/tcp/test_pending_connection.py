"""A connection until it has said who it is: what it speaks, and what it is counted as."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from prfaas.core.errors import LinkError, PeerError
from prfaas.link.protocol.frames import (
    HEADER_BYTES,
    VERSION,
    Hello,
    Kind,
    Reason,
    control,
    decode,
    pack,
)
from prfaas.link.tcp.pending_connection import PendingConnection, TurnedAway, kind_of
from prfaas.tls import authority
from prfaas.tls.context import server_context

HELLO = Hello("east", "west", 1, 1)
OURS = bytes((Kind.HELLO, VERSION))


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    far.setblocking(False)
    with near, far:
        yield near, far


def pending(far: socket.socket, tls: ssl.SSLContext | None = None) -> PendingConnection:
    return PendingConnection(far, ("10.0.0.5", 1234), tls=tls, now=0.0)


def test_a_hello_may_come_in_pieces(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    connection, frame = pending(far), control(Kind.HELLO, HELLO)
    assert connection.read_hello() is None
    for byte in frame[:-1]:
        near.send(bytes([byte]))
        assert connection.read_hello() is None
    near.send(frame[-1:])
    assert connection.read_hello() == HELLO


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (b"GET / HTTP/1.1", "unknown"),
        (b"\x16\x03\x01", "tls"),
        (pack(Kind.PING), "unknown"),
        (control(Kind.HELLO, HELLO)[:HEADER_BYTES].replace(OURS, b"\x01\x07"), "protocol"),
    ],
)
def test_others_are_told_apart(
    pair: tuple[socket.socket, socket.socket], said: bytes, kind: str
) -> None:
    near, far = pair
    near.sendall(said)
    with pytest.raises(PeerError) as caught:
        pending(far).read_hello()
    assert kind_of(caught.value) == kind


def test_plaintext_is_told_that_tls_is_required(
    pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    near, far = pair
    authority.create_authority(tmp_path)
    near.sendall(control(Kind.HELLO, HELLO))
    with pytest.raises(TurnedAway) as caught:
        pending(far, server_context(authority.issue(tmp_path, "west"))).read_hello()
    assert caught.value.kind == "plaintext"
    assert "requires TLS" in decode(near.recv(4096)[HEADER_BYTES:], Reason).reason


def test_who_closes_early_is_counted_as_closed(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    near.close()
    with pytest.raises(TurnedAway) as caught:
        pending(far).read_hello()
    assert caught.value.kind == "closed"


def tls_error(reason: str, message: str) -> ssl.SSLError:
    error = ssl.SSLError(1, message)
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TurnedAway("name", "looks for another"), "name"),
        (tls_error("TLSV1_ALERT_UNKNOWN_CA", "alert unknown ca"), "refused-us"),
        (tls_error("CERTIFICATE_VERIFY_FAILED", "certificate verify failed"), "certificate"),
        (tls_error("NO_SHARED_CIPHER", "no shared cipher"), "handshake"),
        (PeerError("odd"), "protocol"),
        (LinkError("odd"), "protocol"),
        (ConnectionResetError(), "closed"),
    ],
)
def test_what_an_error_is_counted_as(error: Exception, kind: str) -> None:
    assert kind_of(error) == kind


def test_last_words_arrive_before_it_is_closed(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    connection = pending(far)
    near.sendall(b"unread")
    far.sendall(b"last words")
    assert connection.linger()
    assert not connection.has_closed()
    assert near.recv(100) == b"last words"
    assert near.recv(100) == b""
    assert not connection.has_closed()
    near.close()
    assert connection.has_closed()
    far.close()
    assert not connection.linger(), "nothing to wait for"
