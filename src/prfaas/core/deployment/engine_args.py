"""Engines' own arguments, as vLLM's parser reads them.

It takes ``--max_num_seqs`` for ``--max-num-seqs``, and the beginning of a name where no other
begins so; what it cannot tell apart it refuses. ``--name.key.more value`` are parts of a JSON
object, which comes after all that is said of its option otherwise, and replaces it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from prfaas.core.errors import UNREADABLE


def option(args: Sequence[str], *names: str) -> str | None:
    """What is said of an option (``--name value`` or ``--name=value``) last, by any of its names;
    None where it is not named, empty where it has no value."""
    found = None
    for key, value in _in_order(args):
        if _is_any(key, names):
            found = value
    return found


def is_named(args: Sequence[str], names: Iterable[str]) -> bool:
    """Whether any of these options is there, with a value or without."""
    names = tuple(names)
    return any(_is_any(key, names) for key, _ in _in_order(args))


def _is_any(key: str, names: Iterable[str]) -> bool:
    """No option's whole name is the beginning of one that is asked for here."""
    begins = key.startswith("--") and key != "--"
    return any(key == name or (begins and name.startswith(key)) for name in names)


def _in_order(args: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Options and their values: what counts more comes later."""
    objects: dict[str, dict[str, Any]] = {}
    for at, argument in enumerate(args):
        name, separator, value = argument.partition("=")
        key, *path = name.split(".")
        key = key.replace("_", "-")
        following = args[at + 1] if at + 1 < len(args) else ""
        if path and key.startswith("-"):
            _put(objects.setdefault(key, {}), path, value if separator else following)
        else:
            yield key, value if separator else "" if following.startswith("--") else following
    for key, found in objects.items():
        yield key, json.dumps(found)


def _put(into: dict[str, Any], path: list[str], said: str) -> None:
    """Later values replace earlier ones; lists (``key+``) are texts, divided by commas."""
    *above, last = path
    for part in above:
        below = into.get(part)
        if not isinstance(below, dict):
            below = into[part] = {}
        into = below
    value: Any = said
    if last.endswith("+"):
        last, value = last[:-1], said.split(",")
    else:
        with contextlib.suppress(*UNREADABLE):  # Of a text.
            value = msgspec.json.decode(said)
    before = into.get(last)
    if isinstance(before, list) and isinstance(value, list):
        value = before + value
    into[last] = value
