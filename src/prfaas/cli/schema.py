"""``prfaas schema``: the JSON Schema of the deployment file."""

from __future__ import annotations

import argparse
from typing import Any

import msgspec

from prfaas.cli.reports import kinds_of, leaves, report_schema, teach
from prfaas.core.errors import CallerError
from prfaas.description.json_schema import description_schema

EXAMPLES = """
examples:
  prfaas schema > deployment.schema.json        for an editor
  prfaas schema status                          of what 'prfaas status --json' prints
  prfaas schema link test

Exit status: 0, or 2 for a verb without --json.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    teach(parser, EXAMPLES)
    parser.add_argument(
        "words",
        nargs="*",
        metavar="VERB",
        help="a verb: describe what it prints with --json instead",
    )


def run(args: argparse.Namespace) -> int:
    """Print it; returns the exit status. Raises CallerError for a verb that prints no JSON."""
    schema = _of_verb(tuple(args.words)) if args.words else description_schema()
    print(msgspec.json.format(msgspec.json.encode(schema), indent=2).decode())
    return 0


def _of_verb(words: tuple[str, ...]) -> dict[str, Any]:
    from prfaas.cli.main import build_parser

    kinds = {found: kinds_of(parser) for found, parser in leaves(build_parser("*"))}
    if not kinds.get(words):
        known = ", ".join(sorted(" ".join(found) for found, of in kinds.items() if of))
        raise CallerError(f"{' '.join(words)!r} has no --json; these have: {known}")
    return report_schema(kinds[words])
