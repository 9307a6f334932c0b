"""Reading clients' JSON at a bounded cost, whatever it is made of.

A body may be 16 MiB. As one text that is a prompt, and read in milliseconds. As millions of fields
or of empty lists it is seconds of one thread, in which nobody's tokens are passed on, and 20 bytes
of memory for each of its own.
"""

from __future__ import annotations

import contextlib
import gc
import re
from typing import Any

import msgspec

from prfaas.core.errors import UNREADABLE
from prfaas.gateway.api_errors import RequestRefused

_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_FEW_QUOTES = 20_000
"""So many, or fewer, are at most half as many fields: read in 20 ms."""
_BESIDE_BYTES = 256 * 1024
"""Of a body of many fields, or of much quoted text: all that is not in the fields of `_Large`."""
_SLOW_BYTES = 64 * 1024
"""From which on the garbage collector, which looks at every new object again and again, waits."""
LONGEST_VALUE = 1024 * 1024
"""Bytes of one that is read, unless it is a text: a megabyte of empty lists takes 20 ms."""
_TRUE = frozenset({"1", "t", "true", "y", "yes", "on"})
"""Texts that engines take for it."""
_MOST_NUMBER_BYTES = 400
_MAY_BE_NUMBER = re.compile(rb'\s*(?:"|-?\d)')
_OF_LISTS = re.compile(rb"\s*\[\s*\[")
MOST_NUMBER = (1 << 63) - 1
MOST_PROMPTS = 16_384


class _Large(msgspec.Struct):
    """The fields that may well be long; all others are passed over without becoming objects."""

    prompt: msgspec.Raw = msgspec.Raw()
    messages: msgspec.Raw = msgspec.Raw()
    input: msgspec.Raw = msgspec.Raw()
    system: msgspec.Raw = msgspec.Raw()
    instructions: msgspec.Raw = msgspec.Raw()
    tools: msgspec.Raw = msgspec.Raw()
    documents: msgspec.Raw = msgspec.Raw()
    query: msgspec.Raw = msgspec.Raw()
    text_1: msgspec.Raw = msgspec.Raw()
    text_2: msgspec.Raw = msgspec.Raw()
    suffix: msgspec.Raw = msgspec.Raw()


class _Named(msgspec.Struct):
    model: str | None = None


_LARGE = msgspec.json.Decoder(_Large)
_NAMED = msgspec.json.Decoder(_Named)


def top_level(raw: bytes) -> dict[str, msgspec.Raw]:
    """The fields of an object, each as it came. Raises RequestRefused (400)."""
    try:
        if raw.count(b'"') > _FEW_QUOTES:
            _check_beside(raw)
        return _FIELDS.decode(raw)
    except UNREADABLE as error:
        raise RequestRefused(400, f"the body is not a JSON object: {error}") from error


def model_named_in(raw: bytes) -> str | None:
    """The ``model`` that a body names; no other field is read. Raises RequestRefused (400)."""
    try:
        return _NAMED.decode(raw).model
    except UNREADABLE as error:
        raise RequestRefused(400, f"the body is not a JSON object: {error}") from error


def _check_beside(raw: bytes) -> None:
    found = _LARGE.decode(raw)
    beside = len(raw) - sum(len(memoryview(getattr(found, f))) for f in _Large.__struct_fields__)
    if beside > _BESIDE_BYTES:
        raise RequestRefused(
            400,
            f"the body has {beside} bytes in other fields than prompt, messages, input and their "
            f"like; at most {_BESIDE_BYTES} are read",
        )


def says(raw: msgspec.Raw | None) -> bool:
    """Whether a field is there, and neither null nor false."""
    return raw is not None and bytes(memoryview(raw)[:5]) not in (b"null", b"false")


def says_true(value: object) -> bool:
    """Whether engines take a value for true."""
    if isinstance(value, str):
        return value.lower() in _TRUE
    return isinstance(value, int | float) and value == 1


def value_of(raw: msgspec.Raw, name: str) -> Any:
    """What a field says. Raises RequestRefused (400), also for what is longer than
    `LONGEST_VALUE`."""
    if len(memoryview(raw)) > LONGEST_VALUE and bytes(memoryview(raw)[:1]) != b'"':
        raise RequestRefused(400, f"{name} has more than {LONGEST_VALUE} bytes", param=name)
    slow = len(memoryview(raw)) > _SLOW_BYTES and gc.isenabled()
    if slow:
        gc.disable()
    try:
        return msgspec.json.decode(raw)
    except UNREADABLE as error:
        raise RequestRefused(400, f"{name} is not valid JSON: {error}", param=name) from error
    finally:
        if slow:
            gc.enable()


def number_in(raw: msgspec.Raw, name: str) -> int | None:
    """A whole number, also where it is written as engines take it as well: as a fraction (8.0), or
    as a text ("8"). None for whatever else there is. Raises RequestRefused (400)."""
    if len(memoryview(raw)) > _MOST_NUMBER_BYTES:
        if not _MAY_BE_NUMBER.match(memoryview(raw)):
            return None
        raise RequestRefused(400, f"{name} must be at most {MOST_NUMBER}", param=name)
    value = value_of(raw, name)
    if isinstance(value, str):
        value = _number_of(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number_of(text: str) -> int | float | None:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return None


def length_of(raw: msgspec.Raw, name: str) -> int:
    """Of a list of texts, or of lists, whatever is in them. Raises RequestRefused (400), also for
    more than `MOST_PROMPTS`, which are not made objects of."""
    text = bytes(raw)
    if _OF_LISTS.match(text):
        length = text.count(b"]") - 1
    else:
        length = least_quotes(text) // 2
        if length <= MOST_PROMPTS:
            try:
                length = len(msgspec.json.decode(text, type=list[str]))
            except UNREADABLE as error:
                message = f"{name} is neither a text nor a list of texts: {error}"
                raise RequestRefused(400, message, param=name) from error
    if length > MOST_PROMPTS:
        raise RequestRefused(400, f"{name}: {length} are more than {MOST_PROMPTS}", param=name)
    return length


def least_quotes(text: bytes) -> int:
    """So many quotes of JSON at least are no part of a text in it."""
    return text.count(b'"') - text.count(b'\\"')
