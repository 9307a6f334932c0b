"""``prfaas demo``: start a deployment, ask it a script of prompts, check every answer."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from prfaas.demo.run import demo
from prfaas.launch.addresses import HOST
from prfaas.launch.start import load
from prfaas.process.signals import run_until_signal

_PLAIN_WIDTH = 160


def configure(parser: argparse.ArgumentParser) -> None:
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
    # Only a demo that serves on needs the file's port; any other gets out of the way.
    listen = args.listen or (None if args.keep else f"{HOST}:0")
    deployment = load(args.deployment, model=None, listen=listen)
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PLAIN_WIDTH)
    return run_until_signal(demo(deployment, console, keep=args.keep))
