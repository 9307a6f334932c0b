"""Goodput of a test is counted when the connections are up to speed."""

from __future__ import annotations

import pytest

from prfaas.core.errors import LinkError
from prfaas.link.tcp.config import PeerConfig, Plaintext, TcpLinkConfig
from prfaas.link.tcp.link import TcpLink
from prfaas.link.tcp.link_test import SilentSink
from prfaas.link.tcp.link_test_stream import LinkTestStream, goodput


def test_the_first_quarter_does_not_count() -> None:
    marks = [(0.0, 0), (1.0, 10), (2.0, 210), (3.0, 410), (4.0, 610)]
    assert goodput(marks) == 200.0
    assert goodput([(0.0, 0), (0.5, 100)]) == 200.0


def test_what_is_wrong_ends_the_wait_at_once() -> None:
    config = TcpLinkConfig(name="east", security=Plaintext())
    peers = {"west": PeerConfig(address="127.0.0.1:9")}
    link = TcpLink(TcpLinkConfig(name="east", security=config.security, peers=peers), SilentSink())
    try:
        with (
            LinkTestStream(link, "west", 0.1) as stream,
            pytest.raises(LinkError, match="the wrong place"),
        ):
            stream.wait_for_first_bytes(60.0, lambda: "the wrong place")
        with pytest.raises(LinkError):
            LinkTestStream(link, "north", 0.1)
    finally:
        link.close()
