"""The reference of the command line, from its parser: ``python tools/verbs_page.py --write``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from prfaas.cli.main import GROUPS, VERBS, build_parser

PAGE = Path(__file__).resolve().parents[1] / "docs" / "cli.md"
_WIDTH = "100"
_HEAD = """# Command line

Made by `tools/verbs_page.py` from what `prfaas VERB --help` says; a test compares the two.

"""


def page() -> str:
    """Every verb in its group, with all that its help says."""
    os.environ["COLUMNS"] = _WIDTH
    parts = [_HEAD]
    parser = build_parser("*")
    verbs = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction)).choices
    for group, names in GROUPS.items():
        parts.append(f"## {group.capitalize()}\n\n")
        for name in names:
            parts.append(f"### prfaas {name}\n\n{VERBS[name].capitalize()}.\n\n")
            parts.append(f"```text\n{verbs[name].format_help().rstrip()}\n```\n\n")
    return "".join(parts).rstrip() + "\n"


def main() -> int:
    """The exit status: 1 where the page is out of date."""
    if "--write" in sys.argv[1:]:
        PAGE.write_text(page())
        return 0
    return 0 if PAGE.exists() and PAGE.read_text() == page() else 1


if __name__ == "__main__":
    sys.exit(main())
