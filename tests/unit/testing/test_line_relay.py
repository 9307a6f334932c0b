import socket

import pytest

from prfaas.testing.line_relay import LineRelay


@pytest.fixture
def far() -> socket.socket:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        yield server


def dial(relay: LineRelay) -> socket.socket:
    host, port = relay.address.split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def received(sock: socket.socket) -> bytes:
    """The next bytes; none once the connection has ended, however it did."""
    try:
        return sock.recv(100)
    except ConnectionResetError:
        return b""


def test_relays_cuts_and_mends(far: socket.socket) -> None:
    host, port = far.getsockname()
    with LineRelay(f"{host}:{port}") as relay:
        near = dial(relay)
        with near, far.accept()[0] as end:
            near.sendall(b"there")
            assert end.recv(100) == b"there"
            end.sendall(b"and back")
            assert near.recv(100) == b"and back"
            relay.cut()
            assert received(near) == received(end) == b""
        with dial(relay) as turned_away:
            assert received(turned_away) == b""
        relay.mend()
        relay.slow(100_000)
        with dial(relay) as again, far.accept()[0] as end:
            end.settimeout(10)
            again.sendall(b"slowly")
            assert end.recv(100) == b"slowly"
