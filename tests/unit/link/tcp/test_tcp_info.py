"""What the kernel says of a connection."""

from __future__ import annotations

import socket

from prfaas.link.tcp import tcp_info


def test_a_connection_tells_its_round_trip_and_its_bytes() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as near,
        server.accept()[0] as far,
    ):
        near.sendall(b"x" * 1000)
        assert far.recv(1000, socket.MSG_WAITALL) == b"x" * 1000
        said = tcp_info.sample(near)
    assert said is not None
    assert said.rtt_s > 0
    assert said.sent_bytes in (0, 1000)  # an older kernel does not count them
    assert said.window_bytes > 0
    assert tcp_info.sample(near) is None, "it is closed"


def test_what_is_no_tcp_connection_says_nothing() -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        assert tcp_info.sample(sock) is None
