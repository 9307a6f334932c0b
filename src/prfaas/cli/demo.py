"""``prfaas demo``: start a deployment, ask it a script of prompts, check every answer."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from prfaas.cli.reports import teach
from prfaas.demo.run import demo
from prfaas.launch.addresses import HOST
from prfaas.launch.start import load
from prfaas.process.signals import run_until_signal

_PLAIN_WIDTH = 160
EXAMPLES = """
examples:
  prfaas demo                        two minutes at most after the engines are up, then it ends
  prfaas demo --keep                 and serves on: a page to watch, an endpoint to ask
  prfaas demo deployment.yaml        with a deployment of your own on this machine

Exit status: 0 where every answer was identical to a plain engine's (or parts from it where that
engine's best two words nearly tie, as batches on GPUs do), 1 where one was not, 2 where the file is
wrong or a process could not be started.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    teach(parser, EXAMPLES)
    parser.add_argument(
        "deployment",
        nargs="?",
        type=Path,
        metavar="DEPLOYMENT.yaml",
        help="deployment file; without one: two clusters on this machine, joined by a paced line",
    )
    parser.add_argument("--keep", action="store_true", help="serve on until Ctrl-C")
    parser.add_argument(
        "--listen",
        metavar="HOST:PORT",
        help="where the gateway listens (default: a free port; with --keep the file's)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the demo; 0 where every answer is identical, 1 where one is not, 128 + the signal that
    ended it."""
    # Only a demo that serves on needs the file's port; any other gets out of the way.
    listen = args.listen or (None if args.keep else f"{HOST}:0")
    deployment = load(args.deployment, model=None, listen=listen)
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PLAIN_WIDTH)
    return run_until_signal(demo(deployment, console, keep=args.keep))
