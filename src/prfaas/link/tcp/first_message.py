"""Whether a connection is for the KV link, by its first message alone.

An agent may have one port for the KV link and for HTTP. Who dials the KV link says so at once: in
plaintext with its Hello, in TLS by the protocol that its ClientHello asks for (ALPN, RFC 7301).
Nothing else of what a stranger sends is taken apart.
"""

from __future__ import annotations

from prfaas.link.protocol.frames import Kind
from prfaas.tls.context import KV_LINK

TLS_HANDSHAKE = 0x16
"""The first byte of a TLS record that opens a connection (RFC 8446 section 5.1)."""
_HEAD = 5
"""Bytes of a record's head; the last two are how many follow."""
MOST_BYTES = _HEAD + (1 << 14)
"""Of a record, which begins with a whole ClientHello where a peer sends it."""
_NAME = bytes([len(KV_LINK)]) + KV_LINK.encode()
_ASKS = b"\0\x10" + (len(_NAME) + 2).to_bytes(2) + len(_NAME).to_bytes(2) + _NAME
"""The extension as our agents send it, with this protocol alone. Whoever has it elsewhere in a
ClientHello is taken for one of them, and refused later."""


def is_for_link(seen: bytes) -> bool | int:
    """Or how many bytes it takes to tell; ``seen``: one or more, the first of a connection."""
    if seen[0] != TLS_HANDSHAKE:
        return seen[0] == Kind.HELLO
    if len(seen) < _HEAD:
        return _HEAD
    record = _HEAD + int.from_bytes(seen[3:_HEAD])
    if len(seen) < record <= MOST_BYTES:
        return record
    return _ASKS in seen[:record]
