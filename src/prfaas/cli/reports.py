"""What verbs have in common: examples in their help, ``--json``, the schema of what it prints."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import msgspec

_KEPT_AS = "report_kinds"


def teach(parser: argparse.ArgumentParser, examples: str) -> None:
    """What ``--help`` ends with: examples and exit statuses, as they are written."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = examples


def add_json(parser: argparse.ArgumentParser, *kinds: type, help_text: str = "print JSON") -> None:
    """Add ``--json``, which prints one of these types; `kinds_of` finds them again."""
    parser.add_argument("--json", action="store_true", help=help_text)
    parser.set_defaults(**{_KEPT_AS: kinds})


def kinds_of(parser: argparse.ArgumentParser) -> tuple[type, ...]:
    """The types that a verb's ``--json`` prints; none where it has no such option."""
    kinds: tuple[type, ...] = parser.get_default(_KEPT_AS) or ()
    return kinds


def leaves(
    parser: argparse.ArgumentParser, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """Every verb behind ``parser`` with its parser; an action of a verb has two words."""
    inner = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not inner:
        yield words, parser
    for action in inner:
        for name, found in action.choices.items():
            yield from leaves(found, (*words, name))


def report_schema(kinds: tuple[type, ...]) -> dict[str, Any]:
    """The JSON Schema of what is printed. A number that is infinite or none is printed as null."""
    schemas, parts = msgspec.json.schema_components(kinds, ref_template="#/$defs/{name}")
    schema: dict[str, Any] = schemas[0] if len(schemas) == 1 else {"anyOf": list(schemas)}
    whole = {**schema, "$defs": parts} if parts else schema
    found: dict[str, Any] = _with_nulls(whole)
    return found


def _with_nulls(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_with_nulls(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _with_nulls(part) for key, part in schema.items()}
    if found.get("type") == "number":
        found["type"] = ["number", "null"]
    return found
