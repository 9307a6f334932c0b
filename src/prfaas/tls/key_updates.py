"""Connections that change their keys again and again are ended.

In TLS 1.3 either side may ask for new keys at any time: 27 bytes, which take as long as a kilobyte
of anything else and of which nobody behind TLS hears. Sixteen megabytes of them took a gateway's
whole time for five seconds. Clients do so once in millions of records, if at all.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

MOST = 32
"""Of one connection."""
_HANDSHAKE, _KEY_UPDATE = 22, 24


class _Watched:
    def __init__(self, end: Callable[[], object]) -> None:
        self.end, self.updates = end, 0


_watched: WeakKeyDictionary[ssl.SSLObject, _Watched] = WeakKeyDictionary()


def tell_key_updates(context: ssl.SSLContext) -> ssl.SSLContext:
    """Have connections that are made with it from now on be ended, where they are `watch`ed."""
    # Not by the property of ssl.SSLContext: that makes enums of every record's numbers.
    raw: Any = super(ssl.SSLContext, ssl.SSLContext)
    raw._msg_callback.__set__(context, _heard)
    return context


def watch(connection: ssl.SSLObject, end: Callable[[], object]) -> None:
    """Call ``end`` once its peer has changed its keys too often."""
    _watched[connection] = _Watched(end)


def _heard(
    connection: Any, direction: str, _version: int, kind: int, _message: int, data: bytes
) -> None:
    if kind != _HANDSHAKE or direction != "read" or data[:1] != bytes([_KEY_UPDATE]):
        return
    watched = _watched.get(connection)
    if watched is not None:
        watched.updates += 1
        if watched.updates == MOST:
            watched.end()
