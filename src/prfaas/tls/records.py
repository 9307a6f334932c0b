"""What a peer sends beneath what is told of its connection: records, and messages of TLS's own.

In TLS 1.3 either side may ask for new keys at any time: 27 bytes, which take as long as a kilobyte
of anything else and of which nobody behind TLS hears. Sixteen megabytes of them took a gateway's
whole time for five seconds. Clients do so once in millions of records, if at all. A server may give
tickets to come again with, 900 in a record: a megabyte of them took half a second. Honest ones give
two. A record of a byte takes as long as one of a kilobyte, and what comes after a connection was
told to close is deciphered, and dropped, without end.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import ReferenceType, WeakKeyDictionary, ref

ContextKind = TypeVar("ContextKind", bound=ssl.SSLContext)
MOST = 32
"""Changes of keys, and tickets, of one connection."""
MOST_UNHEARD = 32 * 1024
"""Records of which nobody is told: what a loop reads before it tells has fewer, of a byte each."""
_SMALL_BYTES = 64
"""In shorter ones a peer sends more of them than it has need of."""
_HEADER, _HANDSHAKE = 256, 22


class Watched:
    """One connection; ``end`` is called once, when its peer has gone too far."""

    def __init__(self, end: Callable[[], object]) -> None:
        self._end = end
        self._messages = self._unheard = 0
        self._tells = True

    def small(self, size: int) -> int:
        """So many bytes are told: in how many records more than they need have they come?"""
        count, self._unheard = self._unheard, 0
        return max(0, count - size // _SMALL_BYTES)

    def told_elsewhere(self) -> None:
        """Nobody calls `small` any more."""
        self._tells = False

    def comes_record(self) -> None:
        """One more."""
        self._unheard += 1
        if self._unheard == MOST_UNHEARD and self._tells:
            self._end()

    def comes_message(self) -> None:
        """One of TLS's own, as new keys are: the handshake is over."""
        self._messages += 1
        if self._messages == MOST:
            self._end()


_watched: WeakKeyDictionary[ssl.SSLObject, ReferenceType[Watched]] = WeakKeyDictionary()
"""Whoever watches keeps what it watches with, which leads to the connection: kept here, it would
keep that for ever."""


def tell_records(context: ContextKind) -> ContextKind:
    """Have connections that are made with it from now on be counted, where they are `watch`ed."""
    # Not by the property of ssl.SSLContext: that makes enums of every record's numbers.
    raw: Any = super(ssl.SSLContext, ssl.SSLContext)
    raw._msg_callback.__set__(context, _heard)
    return context


def watch(connection: ssl.SSLObject, end: Callable[[], object]) -> Watched:
    """Call ``end`` once its peer has changed its keys too often, or sends what nobody is told, for
    as long as what is returned is kept. Its handshake is over."""
    watched = Watched(end)
    _watched[connection] = ref(watched)
    return watched


def _heard(
    connection: Any, direction: str, _version: int, kind: int, _message: int, _data: bytes
) -> None:
    if direction != "read" or kind not in (_HEADER, _HANDSHAKE):
        return
    known = _watched.get(connection)
    watched = None if known is None else known()
    if watched is None:
        return
    if kind == _HANDSHAKE:
        watched.comes_message()
    else:
        watched.comes_record()
