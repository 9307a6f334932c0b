"""Which deployment a verb is about: the file that is named, or the one that runs here."""

from __future__ import annotations

import argparse
from pathlib import Path

from prfaas.launch.runs import the_running


def add_deployment(parser: argparse.ArgumentParser) -> None:
    """The argument DEPLOYMENT.yaml, which may be left out."""
    parser.add_argument(
        "deployment",
        nargs="?",
        type=Path,
        metavar="DEPLOYMENT.yaml",
        help="deployment file; without one: that of the running 'prfaas up'",
    )


def deployment_file(args: argparse.Namespace) -> Path:
    """The file that was named or is running. Raises ConfigError where neither is."""
    named: Path | None = args.deployment
    return named or the_running().deployment_file
