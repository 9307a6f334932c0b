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
from prfaas.gateway.json_fields import value_of
from prfaas.gateway.openai_errors import RequestRefused

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
_MOST_OBJECTS = 50_000
"""Of a body with names: each is looked at."""
_DEEPEST = 8
"""A part in a message's content is in the fourth list or object."""

_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


def are_in(body: bytes) -> bool:
    """Whether there may be any."""
    if b'uuid"' not in body and b"\\u00" not in body:
        return False
    return _NAMED.search(body) is not None


def made_own(fields: dict[str, msgspec.Raw], own: Callable[[str], str]) -> dict[str, msgspec.Raw]:
    """The fields of a body, with what ``own`` makes of each name in its place. Raises
    RequestRefused (400)."""
    objects = sum(bytes(raw).count(b"{") for raw in fields.values())
    if objects > _MOST_OBJECTS:
        raise RequestRefused(
            400, f"a body in which media have a uuid has at most {_MOST_OBJECTS} objects"
        )
    try:
        return {name: _renamed(raw, own, _DEEPEST) for name, raw in fields.items()}
    except UNREADABLE as error:
        raise RequestRefused(400, f"the body is not valid JSON: {error}") from error


def _renamed(raw: msgspec.Raw, own: Callable[[str], str], deeper: int) -> msgspec.Raw:
    """A value with the names in it made own, where it is a message, a part of one, or a list of
    such."""
    text = bytes(raw)
    first = text.lstrip()[:1]
    if first not in (b"[", b"{") or not _NAMED.search(text):
        return raw
    if not deeper:
        raise RequestRefused(400, "a uuid of a medium is nested too deep")
    if first == b"[":
        every = [_renamed(item, own, deeper - 1) for item in _LIST.decode(text)]
        return msgspec.Raw(msgspec.json.encode(every))
    fields = _OBJECT.decode(text)
    if "uuid" in fields and not _MEDIA.isdisjoint(fields):
        name = value_of(fields["uuid"], "uuid")
        if name is not None:
            fields["uuid"] = msgspec.Raw(msgspec.json.encode(own(str(name))))
    if "content" in fields:
        fields["content"] = _renamed(fields["content"], own, deeper - 1)
    return msgspec.Raw(msgspec.json.encode(fields))
