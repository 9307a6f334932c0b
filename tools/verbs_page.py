"""The reference of the command line, from its parser: ``python tools/verbs_page.py --write``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from prfaas.cli.main import GROUPS, VERBS, build_parser
from prfaas.cli.parser import sentence
from prfaas.cli.reports import leaves

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
            parts.append(f"### prfaas {name}\n\n{sentence(VERBS[name])}\n\n")
            parts.append(_help(verbs[name]))
            parts += [
                f"#### prfaas {name} {' '.join(words)}\n\n{_help(action)}"
                for words, action in leaves(verbs[name])
                if words
            ]
    return "".join(parts).rstrip() + "\n"


def _help(parser: argparse.ArgumentParser) -> str:
    return f"```text\n{parser.format_help().rstrip()}\n```\n\n"


def main() -> int:
    """The exit status: 1 where the page is out of date."""
    if "--write" in sys.argv[1:]:
        PAGE.write_text(page())
        return 0
    return 0 if PAGE.exists() and PAGE.read_text() == page() else 1


if __name__ == "__main__":
    sys.exit(main())
