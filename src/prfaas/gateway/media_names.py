"""Names that clients give images and their like (``uuid``).

An engine keeps what it has made of a medium under its name, for whoever says that again, with the
medium or without. It asks for no salt: so where tenants have caches of their own, each has names of
its own as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from prfaas.core.errors import UNREADABLE
from prfaas.gateway.api_errors import RequestRefused
from prfaas.gateway.json_fields import least_quotes, top_level, value_of

_MEDIA = frozenset(
    {
        "image_url",
        "image_pil",
        "image_embeds",
        "audio_url",
        "audio_embeds",
        "input_audio",
        "video_url",
        "video_embeds",
        "prompt_embeds",
    }
)
"""One of them is in each part of a message that is no text."""
_NAMED = re.compile(rb'"(?:u|\\u0075){2}(?:i|\\u0069)(?:d|\\u0064)"\s*:')
"""The field, however its letters are written."""
_MOST_OBJECTS, _MOST_QUOTES, _MOST_ITEMS = 50_000, 500_000, 100_000
"""Of a body with names. An item is whatever is in a list, or an object: each is looked at."""
_MIXED_BYTES = 64 * 1024
"""Of a list in which something is no object."""
_INSIDE = ("content", "output")
"""Fields of a message, or of what a tool has answered, in which there are parts."""
_DEEPEST = 8
"""A part in a message's content is in the fourth list or object."""

_Fields = dict[str, msgspec.Raw]
_MIXED = msgspec.json.Decoder(list[msgspec.Raw])
_OBJECTS = msgspec.json.Decoder(list[_Fields])
_OBJECT = msgspec.json.Decoder(_Fields)


def are_in(body: bytes) -> bool:
    """Whether there may be any."""
    if b'uuid"' not in body and b"\\u00" not in body:
        return False
    return _NAMED.search(body) is not None


def own_in(body: bytes, own: Callable[[str], str]) -> bytes:
    """A body with what ``own`` makes of each name in its place. Raises RequestRefused (400)."""
    return msgspec.json.encode(made_own(top_level(body), own)) if are_in(body) else body


def made_own(fields: _Fields, own: Callable[[str], str]) -> _Fields:
    """The fields of a body, with what ``own`` makes of each name in its place. Raises
    RequestRefused (400)."""
    values = [bytes(raw) for raw in fields.values()]
    objects = sum(value.count(b"{") for value in values)
    if objects > _MOST_OBJECTS or sum(map(least_quotes, values)) > _MOST_QUOTES:
        raise RequestRefused(
            400,
            f"a body in which media have a uuid has at most {_MOST_OBJECTS} objects, and "
            f"{_MOST_QUOTES // 2} texts",
        )
    renaming = _Renaming(own)
    try:
        return {name: renaming.renamed(raw, _DEEPEST) for name, raw in fields.items()}
    except UNREADABLE as error:
        raise RequestRefused(400, f"the body is not valid JSON: {error}") from error


class _Renaming:
    """Of one body."""

    def __init__(self, own: Callable[[str], str]) -> None:
        self._own = own
        self._items = 0

    def renamed(self, raw: msgspec.Raw, deeper: int) -> msgspec.Raw:
        """A value with the names in it made own, where it is a message, a part of one, or a list of
        such."""
        text = bytes(raw)
        first = text.lstrip()[:1]
        if first not in (b"[", b"{") or not _NAMED.search(text):
            return raw
        if deeper <= 0:
            raise RequestRefused(400, "a uuid of a medium is nested too deep")
        made: object = (
            self._object(_OBJECT.decode(text), deeper)
            if first == b"{"
            else self._list(text, deeper)
        )
        return msgspec.Raw(msgspec.json.encode(made))

    def _list(self, text: bytes, deeper: int) -> list[object]:
        try:
            objects = _OBJECTS.decode(text)
        except msgspec.ValidationError:
            if len(text) > _MIXED_BYTES:
                message = "a list with a uuid of a medium in it has other things than objects"
                raise RequestRefused(400, message) from None
            mixed = _MIXED.decode(text)
            self._count(len(mixed))
            return [self.renamed(item, deeper - 1) for item in mixed]
        self._count(len(objects))
        return [self._object(fields, deeper - 1) for fields in objects]

    def _object(self, fields: _Fields, deeper: int) -> _Fields:
        if "uuid" in fields and not _MEDIA.isdisjoint(fields):
            name = value_of(fields["uuid"], "uuid")
            if name is not None:
                fields["uuid"] = msgspec.Raw(msgspec.json.encode(self._own(str(name))))
        for name in _INSIDE:
            if name in fields:
                fields[name] = self.renamed(fields[name], deeper - 1)
        return fields

    def _count(self, items: int) -> None:
        self._items += items
        if self._items > _MOST_ITEMS:
            message = f"a body in which media have a uuid has at most {_MOST_ITEMS} items in lists"
            raise RequestRefused(400, message)
