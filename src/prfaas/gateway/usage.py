"""What an answer says about caches, taken out where that would tell one tenant of another's."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec

from prfaas.core.errors import UNREADABLE

_PLAIN = rb"[^{}]{0,4096}"
_OBJECT = rb"\s*:\s*(\{" + _PLAIN + rb"(?:\{" + _PLAIN + rb"\}" + _PLAIN + rb"){0,16}\})"
"""With others in it, as that of images' tokens. What is longer is no usage, and would take long."""
_DETAILS = re.compile(rb'"prompt_tokens_details"' + _OBJECT)
"""Inside a JSON string the quote behind the name is escaped, so no text of an answer matches."""
_INPUT_DETAILS = re.compile(rb'"input_tokens_details"' + _OBJECT)
_NO_DETAILS = b'"input_tokens_details":{"cached_tokens":0,"cache_write_tokens":0}'
"""Clients of the Responses API take the field for granted."""
_EVENT = re.compile(rb"^data: (\{[^\n]*\})\r?$", re.MULTILINE)
_LAST_USAGE = re.compile(rb'^data: \{[^\n]*"choices":\[\][^\n]*\}\r?\n(?:\r?\n|\Z)', re.MULTILINE)
"""The event that has but the usage: what is in a text has a backslash before each quote."""
_USAGE = re.compile(rb'"usage"' + _OBJECT)
_PIECE_BYTES, _READ_BYTES = 1024 * 1024, 32 * 1024 * 1024
"""Bytes after which others have turns; and of an answer that is read as a whole, in 15 ms."""
_MOST_USAGES = 100
"""In an answer; where there are more, a client has written them."""
_LONGEST_COUNTS = 16 * 1024
"""Bytes of what says how much of a prompt was cached, which begins with one of these."""
_COUNTS = (b'"usage"', b'"prompt_tokens_details"', b'"input_tokens_details"')
_CACHE_COUNTS = ("cache_read_input_tokens", "cache_creation_input_tokens")


class _Usage(msgspec.Struct):
    completion_tokens: int | None = None
    output_tokens: int | None = None
    prompt_tokens: int | None = None
    input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None

    def counts(self) -> Counts:
        """In any of the APIs; Anthropic's ``input_tokens`` are those that were not cached."""
        answer = self.completion_tokens or self.output_tokens
        cached = (self.cache_read_input_tokens or 0) + (self.cache_creation_input_tokens or 0)
        prompt = (self.prompt_tokens or self.input_tokens or 0) + cached
        return Counts(None if answer is None else max(answer, 0), max(prompt, 0))


class Counts(NamedTuple):
    """Tokens, as an engine says. ``answer``: None where it says nothing of that."""

    answer: int | None
    prompt: int = 0


class _Answer(msgspec.Struct):
    usage: _Usage


class _Event(msgspec.Struct):
    usage: _Usage | None = None
    response: _Answer | None = None
    """Of the Responses API."""


def without_cached_tokens(content: bytes, *, message: bool) -> bytes:
    """An answer, or whole events of one, that counts a prompt as if nothing of it was cached.
    ``message``: it is one of Anthropic's API."""
    if b"prompt_tokens_details" in content:
        content = _DETAILS.sub(b'"prompt_tokens_details":null', content)
    if b"input_tokens_details" in content:
        content = _INPUT_DETAILS.sub(_NO_DETAILS, content)
    # Other answers say the request again, in which there may be a million that look so.
    if message and b"_input_tokens" in content:
        content = _USAGE.sub(_all_as_input, content)
    return content


async def without_cached_tokens_in_turns(content: bytes, *, message: bool) -> bytes:
    """The same of an answer of hundreds of megabytes, between which others have turns."""
    if len(content) <= _PIECE_BYTES:
        return without_cached_tokens(content, message=message)
    parts = [without_cached_tokens(piece, message=message) async for piece in _pieces(content)]
    return await asyncio.to_thread(b"".join, parts)


async def counts_in(content: bytes, most: int = 0) -> Counts:
    """What an answer that is complete says of its length; no more than could be in it, or than it
    may have (``most``), not all of which is shown: that is counted against its tenant."""
    usages: list[bytes] = []
    if len(content) > _READ_BYTES:
        async for piece in _pieces(content):
            usages += itertools.islice((m[1] for m in _USAGE.finditer(piece)), _MOST_USAGES + 1)
    if not 0 < len(usages) <= _MOST_USAGES:
        found = [_counts_in(content)]
    else:
        found = [_counts_in(b'{"usage":%b}' % usage) for usage in usages]
    told = _most(found)
    if told.answer is None:
        return told
    return told._replace(answer=min(told.answer, max(most, len(content))))


def counts_told(events: bytes) -> Counts:
    """The same of events of a stream. They may be fewer than tokens: of reasoning that is not to be
    shown, or of a call of a tool, there are none, and what waits to be sent is told at once."""
    found = list[Counts]()
    for event in _EVENT.finditer(events) if b'"usage":{' in events else ():
        with suppress(*UNREADABLE):
            read = msgspec.json.decode(event[1], type=_Event)
            usage = read.usage if read.response is None else read.response.usage
            if usage is not None:
                found.append(usage.counts())
    return _most(found)


def without_last_usage(events: bytes) -> bytes:
    """These events but for the one that has only the usage, which no client has asked for."""
    return _LAST_USAGE.sub(b"", events) if b'"choices":[]' in events else events


def _counts_in(content: bytes) -> Counts:
    try:
        return msgspec.json.decode(content, type=_Answer).usage.counts()
    except UNREADABLE:
        return Counts(None)


def _most(found: list[Counts]) -> Counts:
    answers = [each.answer for each in found if each.answer is not None]
    return Counts(max(answers, default=None), max((each.prompt for each in found), default=0))


def before_counts(here: bytes) -> int:
    """Where part of what is long can end: not in what says how much was cached, which is looked for
    in whole pieces."""
    last = max(0, len(here) - _LONGEST_COUNTS)
    found = [at for name in _COUNTS if (at := here.find(name, last)) >= 0]
    return min(found, default=len(here) - max(map(len, _COUNTS)))


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    """All of it, with others' turns between them."""
    start = 0
    while len(content) - start > _PIECE_BYTES:
        end = start + (before_counts(content[start : start + _PIECE_BYTES]) or _PIECE_BYTES)
        yield content[start:end]
        await asyncio.sleep(0)
        start = end
    yield content[start:]


def _all_as_input(found: re.Match[bytes]) -> bytes:
    """Of a message's usage, in which ``input_tokens`` are those that were not cached."""
    try:
        usage = msgspec.json.decode(found[1], type=dict[str, Any])
        if "input_tokens" not in usage:
            return found[0]  # It is no message's, which the text of an answer only looks like.
        cached = sum(usage.pop(name, None) or 0 for name in _CACHE_COUNTS)
        usage["input_tokens"] += cached
    except (KeyError, TypeError, *UNREADABLE):
        return b'"usage":{"input_tokens":0,"output_tokens":0}'
    return b'"usage":' + msgspec.json.encode(usage)
