"""Whose a connection is, by its first bytes."""

from __future__ import annotations

import ssl

import pytest

from prfaas.link.protocol.frames import Hello, Kind, control
from prfaas.link.tcp.first_message import MOST_BYTES, is_for_link
from prfaas.tls.context import KV_LINK


def client_hello(*protocols: str, name: str = "agent") -> bytes:
    context = ssl.create_default_context()
    if protocols:
        context.set_alpn_protocols(protocols)
    said = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), said, server_hostname=name).do_handshake()
    return said.read()


def test_the_kv_link_asks_for_itself() -> None:
    assert is_for_link(client_hello(KV_LINK)) is True
    assert is_for_link(client_hello(KV_LINK) + b"more that has come") is True
    assert is_for_link(control(Kind.HELLO, Hello("east", "west", 1, 1))) is True


@pytest.mark.parametrize("protocols", [(), ("http/1.1",), ("h2", "http/1.1"), ("prfaas-kv2",)])
def test_all_else_is_for_others(protocols: tuple[str, ...]) -> None:
    assert is_for_link(client_hello(*protocols)) is False
    assert is_for_link(b"GET /health HTTP/1.1\r\n") is False
    assert is_for_link(b"\0") is False


@pytest.mark.parametrize("protocol", [KV_LINK, "http/1.1"])
def test_it_takes_a_whole_record_and_no_more(protocol: str) -> None:
    hello = client_hello(protocol)
    for count in range(1, len(hello)):
        wanted = is_for_link(hello[:count])
        assert wanted == (5 if count < 5 else len(hello))
    assert is_for_link(hello) is (protocol == KV_LINK)


def test_what_asks_behind_its_first_record_does_not_ask() -> None:
    assert is_for_link(client_hello() + client_hello(KV_LINK)) is False


def test_a_record_that_is_too_long_is_not_waited_for() -> None:
    longest = (1 << 14).to_bytes(2)
    assert is_for_link(b"\x16\3\1" + longest) == MOST_BYTES
    assert is_for_link(b"\x16\3\1\xff\xff") is False
