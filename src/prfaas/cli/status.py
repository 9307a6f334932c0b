"""``prfaas status``: a running deployment in the terminal, live or once."""

from __future__ import annotations

import argparse
import asyncio
import time

import aiohttp
import msgspec
from rich.live import Live

from prfaas.cli.console import report_console
from prfaas.cli.durations import more_than_none
from prfaas.cli.reports import add_json, teach
from prfaas.cli.which_deployment import add_deployment, deployment_file
from prfaas.core.deployment import Deployment, load_deployment
from prfaas.process.signals import run_until_signal
from prfaas.status.collect import collect
from prfaas.status.snapshot import Snapshot
from prfaas.status.view import draw

EXAMPLES = """
examples:
  prfaas status                                   of the running 'prfaas up', live
  prfaas status deployment.yaml --once            of any deployment whose addresses the file names
  prfaas status deployment.yaml --gateway http://10.0.0.5:8000
  prfaas status --json | jq .troubles             once, for scripts

Exit status: 0 where requests are answered, 1 where they are not, 2 where the file or the running
deployment cannot be found.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    teach(parser, EXAMPLES)
    add_deployment(parser)
    parser.add_argument("--once", action="store_true", help="print it once and stop")
    add_json(parser, Snapshot, help_text="print JSON once")
    parser.add_argument(
        "--every",
        default="1 s",
        metavar="TIME",
        help="time between two looks (default: %(default)s)",
    )
    parser.add_argument(
        "--gateway", metavar="URL", help="ask this gateway (default: where the file's listens)"
    )


def run(args: argparse.Namespace) -> int:
    """Show it once, or until Ctrl-C; 1 where requests are not answered."""
    period_s = more_than_none("--every", args.every)
    deployment = load_deployment(deployment_file(args))
    gateway = (args.gateway or deployment.gateway.admin_url).rstrip("/")
    return run_until_signal(_show(deployment, gateway, args, period_s), stopped_status=0)


async def _show(
    deployment: Deployment, gateway: str, args: argparse.Namespace, period_s: float
) -> int:
    console = report_console()
    async with aiohttp.ClientSession() as http:
        snapshot = await collect(deployment, http, gateway=gateway, now=time.time())
        if args.json:
            print(msgspec.json.encode(snapshot).decode())
        elif args.once or not console.is_terminal:
            console.print(draw(snapshot), highlight=False)
        else:
            seen = draw(snapshot, width=console.width)
            with Live(seen, console=console, screen=True, auto_refresh=False) as live:
                while True:
                    await asyncio.sleep(period_s)
                    snapshot = await collect(deployment, http, gateway=gateway, now=time.time())
                    live.update(draw(snapshot, width=console.width), refresh=True)
    return 0 if snapshot.well else 1
