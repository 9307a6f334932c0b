"""How a connection begins, seen from the side that dials: what is said where it does not."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from prfaas.core.addresses import Address
from prfaas.core.errors import LinkError, PeerError
from prfaas.link.protocol.frames import Hello, Kind, Welcome, control, pack, reason
from prfaas.link.tcp.config import PeerConfig, Plaintext, TcpLinkConfig
from prfaas.link.tcp.dialing import Dialled, dial

CONFIG = TcpLinkConfig(name="east", security=Plaintext())
HELLO = Hello("east", "west", 1, 7)


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def dialled(server: socket.socket, answer: bytes) -> Dialled:
    """Dial a peer that answers the Hello with ``answer`` and closes."""

    def serve() -> None:
        with server.accept()[0] as sock:
            sock.recv(4096)
            sock.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        peer = PeerConfig(address=str(Address(*server.getsockname())))
        return dial(CONFIG, None, peer, HELLO)
    finally:
        thread.join()


def test_a_welcome_opens_the_connection(server: socket.socket) -> None:
    welcome = Welcome("west", 5, 65536)
    made = dialled(server, control(Kind.WELCOME, welcome))
    assert (made.welcome, made.number) == (welcome, 7)
    made.channel.close()


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (reason(Kind.REJECT, "may not push"), "rejected: may not push"),
        (control(Kind.WELCOME, Welcome("north", 5, 65536)), "is agent 'north', not 'west'"),
        (control(Kind.WELCOME, Welcome("west", 5, 100)), "takes chunks of 100 bytes only"),
        (pack(Kind.PONG), "answered a HELLO with PONG"),
        (b"HTTP/1.1 400 Bad Request\r\nServer: x\r\nContent-Length: 0", "wrong checksum"),
    ],
)
def test_a_peer_that_is_not_what_it_should_be(
    server: socket.socket, answer: bytes, told: str
) -> None:
    with pytest.raises(PeerError, match=told):
        dialled(server, answer)


def test_a_connection_that_ends_at_once_is_the_lines_fault(server: socket.socket) -> None:
    with pytest.raises(LinkError, match="closed the connection before it said who it is"):
        dialled(server, b"")


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = str(Address(*server.getsockname()))
    with pytest.raises(LinkError, match=f"cannot reach 'west' at {address}: "):
        dial(CONFIG, None, PeerConfig(address=address), HELLO)
