"""Where something listens or is reached: ``host:port`` and URLs, read and written in one place.

An IPv6 host stands in brackets wherever a port may follow (``[::1]:7400``, RFC 3986 section 3.2.2).
Inside an `Address` it has none: that is how sockets and resolvers take it.
"""

from __future__ import annotations

import ipaddress
from typing import NamedTuple
from urllib.parse import urlsplit

from prfaas.core.errors import ConfigError


def stays_here(host: str) -> bool:
    """Whether what is sent to this host cannot leave the machine."""
    if host == "localhost":
        return True
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback


def is_everywhere(host: str) -> bool:
    """Whether what is bound to this host is reached on every interface of its machine
    (``0.0.0.0``, ``::``); no other machine can dial it by that."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


class Address(NamedTuple):
    """``str()`` writes it back with the brackets that IPv6 needs; port 0 stands for a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{_bracketed(self.host)}:{self.port}"


def parse_address(text: str, *, what: str = "address") -> Address:
    """``"host:port"`` or ``"[v6]:port"`` to its parts; without a host every interface is meant.

    Raises ConfigError; ``what`` names the setting in its message.
    """
    host, separator, port = text.rpartition(":")
    try:
        host.encode("idna")  # as the resolver does: a UnicodeError where it is nobody's name
        valid = bool(separator) and port.isdecimal() and int(port) <= 65535
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError(f"{what} {text!r} is not host:port, for example 10.0.0.5:7400")
    return Address(host.strip("[]") or "0.0.0.0", int(port))


def on_this_machine(bound: Address) -> Address:
    """Where the machine that binds an address reaches it itself: on the loopback, where it is bound
    on every interface."""
    if not is_everywhere(bound.host):
        return bound
    return bound._replace(host="::1" if ":" in bound.host else "127.0.0.1")


def parse_url(url: str, *, what: str = "url") -> Address:
    """Host and port of ``"http://host:port/..."``; without a port the scheme's own.

    Raises ConfigError; ``what`` names the setting in its message.
    """
    try:
        parts = urlsplit(url)
        default = {"http": 80, "https": 443}.get(parts.scheme)
        host, port = parts.hostname, parts.port or default
    except ValueError:
        host = port = None
    if not host or port is None:
        raise ConfigError(f"{what} {url!r} is not http://host:port, for example http://[::1]:8001")
    return Address(host, port)


def endpoint_at(endpoint: str, host: str) -> str:
    """A ZMQ endpoint that is bound on every interface (``tcp://*:5557``), as others reach it."""
    return endpoint.replace("*", _bracketed(host))


def is_heard_elsewhere(endpoint: str) -> bool:
    """Whether other machines may connect to what publishes at a ZMQ endpoint."""
    if endpoint.startswith(("ipc://", "inproc://")):
        return False
    return not stays_here(endpoint.removeprefix("tcp://").rpartition(":")[0].strip("[]"))


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def network_of(address: str) -> str:
    """What one owner is likely to have all of: an IPv4 address, or 64 bits of an IPv6 one."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, 64), strict=False).network_address)
