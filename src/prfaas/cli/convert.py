"""``prfaas convert FILE``: a scenario of an earlier version as today's description."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import msgspec

from prfaas.cli.reports import teach
from prfaas.core.errors import CallerError
from prfaas.core.strict import load_yaml, naming
from prfaas.description.earlier import converted
from prfaas.description.file import parse_description

EXAMPLES = """
examples:
  prfaas convert scenario.yaml > deployment.yaml
  prfaas convert scenario.yaml -o deployment.yaml

Exit status: 0, or 2 where the file is not understood or the new one exists.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("file", type=Path, help="a planner's or simulator's scenario of before")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="where to write it (default: standard output)",
    )
    teach(parser, EXAMPLES)


def run(args: argparse.Namespace) -> int:
    """Write the file anew; returns the exit status. Comments are not carried over."""
    old: dict[str, Any] = load_yaml(args.file, dict[str, Any])
    with naming(str(args.file)):
        new, notes = converted(old)
        text = msgspec.yaml.encode(new).decode()
        parse_description(text, source="as converted")
    if args.output is None:
        print(text, end="")
    else:
        if args.output.exists() and not args.output.samefile(args.file):
            raise CallerError(f"{args.output} exists; name a file that does not")
        args.output.write_text(text, encoding="utf-8")
    for note in ("comments are not carried over", *notes):
        print(f"note: {note}", file=sys.stderr)
    return 0
