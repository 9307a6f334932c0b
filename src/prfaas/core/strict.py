"""Typed, strict loading of files people write: each mistake is named with its place."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec

from prfaas.core.errors import UNREADABLE, ConfigError

T = TypeVar("T")

MAX_FILE_BYTES = 4 * 1024 * 1024

_UNKNOWN = re.compile(
    r"Object contains unknown field `(?P<name>[^`]*)`(?: - at `(?P<path>[^`]*)`)?"
)

_MISSING = re.compile(r"Object missing required field `(?P<name>[^`]*)`(?: - at `(?P<path>.*)`)?$")
_OTHER = re.compile(
    r"Expected `(?P<wanted>[^`]+)`, got `(?P<found>[^`]+)`(?: - at `(?P<path>.*)`)?$"
)
_WORDS = {
    "object": "keys with values",
    "array": "a list",
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "null": "nothing",
}
_NUMBER = re.compile(r"Expected `str( \| null)?`, got `(int|float)` - at `(?P<path>[^`]*)`")
_ADDRESS = re.compile(r"\.(admin_)?(listen|advertise|admin|via)$")
_ENUM = re.compile(r"Invalid enum value '(?P<name>[^']*)' - at `(?P<path>[^`]*)`")


class Strict(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """Base of the types that say what a file may hold: an unknown key is an error. What is as by
    default is not written, so that another release can read a file that uses nothing new."""


@contextmanager
def naming(place: str) -> Iterator[None]:
    """Put ``place`` before the message of a ConfigError that is raised inside."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error


def load_yaml(path: Path, kind: type[T]) -> T:
    """Read a YAML file as ``kind`` (a `Strict` type).

    Raises ConfigError naming the file, the place and, for a misspelt key, the nearest known one.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_FILE_BYTES} bytes; is it the right file?")
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    return parse_yaml(text, kind, source=str(path))


def parse_yaml(text: bytes | str, kind: type[T], *, source: str) -> T:
    """The same for text already in memory; ``source`` names it in errors."""
    try:
        return msgspec.yaml.decode(text, type=kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {_explain(str(error), kind)}") from error
    except (*UNREADABLE, ValueError) as error:  # ValueError: 2026-13-45 is no date.
        said = "; ".join(line.strip() for line in str(error).splitlines())
        said = said.replace('; in "<byte string>", line', ", at line")
        said = said.replace('; in "<unicode string>", line', ", at line")
        raise ConfigError(f"{source}: not valid YAML: {said}") from error


def _explain(message: str, kind: type) -> str:
    match = _ENUM.search(message)
    if match is not None:
        choices = ", ".join(_choices(kind, match["path"]))
        return f"{match['name']!r} at {match['path']}; write one of {choices}"
    match = _NUMBER.search(message)
    if match is not None:
        if _ADDRESS.search(match["path"]):
            return f'a number alone at {match["path"]}; write "HOST:PORT"'
        return f"a number alone at {match['path']}; write its unit, or quote it if it is a name"
    match = _MISSING.search(message)
    if match is not None:
        return f"{match['name']!r} is missing at {match['path'] or '$'}"
    match = _OTHER.search(message)
    if match is not None:
        return _other_kind(match["wanted"], match["found"], match["path"])
    match = _UNKNOWN.search(message)
    if match is None:
        return message
    where = match["path"] or "$"
    known = sorted(_all_field_names(kind, set()))
    near = difflib.get_close_matches(match["name"], known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown key {match['name']!r} at {where}{hint}"


def _other_kind(wanted: str, found: str, path: str | None) -> str:
    if path is None and found == "null":
        return "the file is empty"
    kinds = [kind for kind in wanted.split(" | ") if kind != "null"]
    there, write = _WORDS.get(found, found), " or ".join(_WORDS.get(kind, kind) for kind in kinds)
    return f"{there} at {path or '$'}; write {write}"


def _all_field_names(kind: Any, seen: set[Any]) -> set[str]:
    """Every key that may appear anywhere inside ``kind``: candidates for 'did you mean'."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        if kind in seen:
            return set()
        seen.add(kind)
        names: set[str] = set()
        for field in msgspec.structs.fields(kind):
            names.add(field.encode_name)
            names |= _all_field_names(field.type, seen)
        return names
    return set().union(*(_all_field_names(arg, seen) for arg in get_args(kind)), set())


def _choices(kind: Any, path: str) -> list[str]:
    """The values that the Literal at ``path`` takes (``$.clusters[1].kind``, as msgspec writes)."""
    kinds = [kind]
    for step in re.findall(r"\.(\w+)|(\[)", path):
        kinds = [inner for outer in kinds for inner in _inner(outer, step[0])]
    literals = [k for outer in kinds for k in (outer, *get_args(outer)) if get_origin(k) is Literal]
    return [str(value) for literal in literals for value in get_args(literal)]


def _inner(kind: Any, name: str) -> list[Any]:
    """What stands under key ``name`` of ``kind``, or inside it where there is no name."""
    options = [kind, *get_args(kind)]
    if not name:
        return [o for o in options[1:] if o is not type(None) and o is not Ellipsis]
    structs = [o for o in options if isinstance(o, type) and issubclass(o, msgspec.Struct)]
    fields = [field for struct in structs for field in msgspec.structs.fields(struct)]
    return [field.type for field in fields if field.encode_name == name]
