"""Sockets of the KV link."""

from __future__ import annotations

import socket

import pytest

from prfaas.core.errors import ConfigError
from prfaas.link.tcp.channel import connect
from prfaas.link.tcp.config import split_address


def test_a_paced_connection_sends_segments_that_make_no_burst() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        for paced, most in ((True, 8960), (False, 65535)):
            with connect(host, port, timeout_s=5.0, paced=paced) as sock:
                segment = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
                assert 8000 < segment <= most


@pytest.mark.parametrize(
    "address", ["west", "west:", "west:x", "west:²", "west:65536", "a..b:7400", "w" * 64 + ":7400"]
)
def test_what_is_no_address_is_told_so(address: str) -> None:
    with pytest.raises(ConfigError, match="is not host:port, for example"):
        split_address(address)


def test_addresses() -> None:
    assert split_address("west.example:7400") == ("west.example", 7400)
    assert split_address("[::1]:0") == ("::1", 0)
    assert split_address(":7400") == ("0.0.0.0", 7400)


def test_an_address_where_nobody_listens_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
    with pytest.raises(ConnectionRefusedError):
        connect(host, port, timeout_s=5.0, paced=True)
