"""host:port and URLs: IPv6 keeps its brackets where a port follows, and only there."""

from __future__ import annotations

import pytest

from prfaas.core.addresses import (
    Address,
    endpoint_at,
    is_everywhere,
    on_this_machine,
    parse_address,
    parse_url,
)
from prfaas.core.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("west.example:7400", Address("west.example", 7400)),
        ("127.0.0.1:8000", Address("127.0.0.1", 8000)),
        ("[::1]:0", Address("::1", 0)),
        (":7400", Address("0.0.0.0", 7400)),
    ],
)
def test_a_host_and_a_port(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    ["west", "west:", "west:x", "west:²", "west:65536", "a..b:7400", "w" * 64 + ":7400", "8000"],
)
def test_what_is_no_address_is_told_so(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^gateway.listen '.*' is not host:port, for example"):
        parse_address(text, what="gateway.listen")


def test_an_ipv6_host_is_written_in_brackets() -> None:
    assert str(Address("::1", 7400)) == "[::1]:7400"
    assert str(Address("west", 7400)) == "west:7400"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://10.0.0.7:8001", Address("10.0.0.7", 8001)),
        ("http://[::1]:8001/v1", Address("::1", 8001)),
        ("https://engine.example", Address("engine.example", 443)),
        ("http://engine.example", Address("engine.example", 80)),
    ],
)
def test_a_url_says_where_its_server_is(url: str, address: Address) -> None:
    assert parse_url(url) == address


@pytest.mark.parametrize("url", ["", "http://", "http://[::1:8001", "http://host:x", "tcp://host"])
def test_what_is_no_url_is_told_so(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^engine 'e': url '.*' is not http://host:port"):
        parse_url(url, what="engine 'e': url")


def test_an_endpoint_bound_everywhere_is_reached_at_its_host() -> None:
    assert endpoint_at("tcp://*:5557", "::1") == "tcp://[::1]:5557"
    assert endpoint_at("tcp://*:5557", "10.0.0.7") == "tcp://10.0.0.7:5557"
    assert endpoint_at("ipc:///tmp/events", "10.0.0.7") == "ipc:///tmp/events"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "::0", "0:0:0:0:0:0:0:0"])
def test_every_interface_may_be_written_in_several_ways(host: str) -> None:
    assert is_everywhere(host)
    loopback = "::1" if ":" in host else "127.0.0.1"
    assert on_this_machine(Address(host, 7400)) == Address(loopback, 7400)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "10.0.0.7", "west.example"])
def test_one_interface_is_not_all(host: str) -> None:
    assert not is_everywhere(host)
    assert on_this_machine(Address(host, 7400)) == Address(host, 7400)
