"""Sockets of the KV link."""

from __future__ import annotations

import socket

import pytest

from prfaas.link.tcp.socket_options import connect


def test_a_paced_connection_sends_segments_that_make_no_burst() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        for paced, most in ((True, 8960), (False, 65535)):
            with connect(host, port, timeout_s=5.0, paced=paced) as sock:
                segment = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
                assert 8000 < segment <= most


def test_an_address_where_nobody_listens_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
    with pytest.raises(ConnectionRefusedError):
        connect(host, port, timeout_s=5.0, paced=True)
