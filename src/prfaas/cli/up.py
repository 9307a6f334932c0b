"""``prfaas up``: a deployment's processes on this machine, until Ctrl-C."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from rich.console import Console

from prfaas.cli.reports import teach
from prfaas.core.deployment import Deployment
from prfaas.launch.start import load, started
from prfaas.process.signals import run_until_signal

log = logging.getLogger(__name__)

EXAMPLES = """
examples:
  prfaas up                                 two clusters with a small model, on this machine
  prfaas up --model Qwen/Qwen3-0.6B         the same with another
  prfaas up deployment.yaml --events events.jsonl
  prfaas up --listen 127.0.0.1:9000         where port 8000 is taken

It runs until Ctrl-C or 'prfaas down'. Exit status: 128 + the signal that ended it (130 after
Ctrl-C), 2 where the file is wrong, or a process could not be started or did not stay.
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
    parser.add_argument(
        "--model",
        metavar="PATH_OR_ID",
        help="serve this model: a directory, a name on the Hugging Face Hub, or tiny:gdn, "
        "tiny:sliding_window, tiny:dense, tiny:mla (made here)",
    )
    parser.add_argument(
        "--events",
        type=Path,
        metavar="FILE",
        help="have the gateway append its journal: every event and command",
    )
    parser.add_argument(
        "--listen", metavar="HOST:PORT", help="where the gateway listens, instead of the file's"
    )


def run(args: argparse.Namespace) -> int:
    """Run the deployment; 128 + the signal that ended it."""
    deployment = load(args.deployment, model=args.model, listen=args.listen)
    return run_until_signal(
        _up(deployment, Console(), args.events),
        # A terminal that is closed says so, and so does who wants a file read again.
        on_hangup=lambda: log.info("SIGHUP: goes on; Ctrl-C or 'prfaas down' ends it"),
    )


async def _up(deployment: Deployment, console: Console, journal_file: Path | None) -> int:
    async with started(deployment, console, journal_file=journal_file) as supervisor:
        model = supervisor.deployment.model.served_name
        console.print(
            f"\nServing [bold]{model}[/] at [bold]{supervisor.url}/v1[/]. Ctrl-C stops it.\n"
            f"  curl {supervisor.url}/v1/completions -H 'Content-Type: application/json' \\\n"
            f'    -d \'{{"model": "{model}", "prompt": "Once upon a time", "max_tokens": 16}}\'',
            highlight=False,
            soft_wrap=True,
        )
        await supervisor.watch()
    return 0
