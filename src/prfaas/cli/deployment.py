"""``prfaas deployment diff OLD NEW``: what a new deployment file would change."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from prfaas.cli.reports import add_json, teach
from prfaas.core.deployment import load_deployment
from prfaas.core.deployment.changes import Change, changes, check_change
from prfaas.core.errors import ConfigError

EXAMPLES = """
examples:
  prfaas deployment diff deployment.yaml new.yaml
  prfaas deployment diff deployment.yaml new.yaml --json | jq '.changes[].what'

What joins and leaves, and most of what gateways are told, is taken over when they read the file
again: on SIGHUP, or soon after it has changed. The rest is marked.

Exit status: 0 where both say the same, 1 where they differ, 2 where a file is bad or running
processes would refuse the new one.
"""


class DeploymentDiff(msgspec.Struct, frozen=True):
    """What ``--json`` prints. ``refused``: why running processes would stay with the old file."""

    changes: list[Change]
    refused: str | None = None


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    diff = actions.add_parser(
        "diff",
        help="compare two deployment files",
        description="Say in words what differs between two deployment files.",
    )
    diff.add_argument("old", type=Path, metavar="OLD.yaml", help="the file in use")
    diff.add_argument("new", type=Path, metavar="NEW.yaml", help="the file to come")
    add_json(diff, DeploymentDiff)
    teach(diff, EXAMPLES)


def run(args: argparse.Namespace) -> int:
    """Compare; the exit status says whether they differ."""
    old, new = load_deployment(args.old), load_deployment(args.new)
    found, refused = changes(old, new), None
    try:
        check_change(old, new)
    except ConfigError as error:
        refused = str(error)
    if args.json:
        print(msgspec.json.encode(DeploymentDiff(found, refused)).decode())
    else:
        for change in found:
            print(change)
        if refused is not None:
            print(f"running processes refuse it: {refused}")
    return 2 if refused else 1 if found else 0
