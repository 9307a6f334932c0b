"""``prfaas agent DEPLOYMENT.yaml --name AGENT``: run the agent of one machine until SIGTERM."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import uvloop

from prfaas.agent.service import run_until_stopped
from prfaas.agent.settings import settings_for
from prfaas.core.deployment import load_deployment


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "deployment",
        type=Path,
        metavar="DEPLOYMENT.yaml",
        help="deployment file; the other agents it sends to have fixed addresses in it",
    )
    parser.add_argument("--name", required=True, metavar="AGENT", help="which agent of the file")
    parser.add_argument(
        "--socket", type=Path, metavar="PATH", help="Unix socket for engines, instead of the file's"
    )
    parser.add_argument(
        "--log-level",
        default="info",
        choices=("debug", "info", "warning", "error"),
        help="least severe message on standard error (default: info)",
    )


def run(args: argparse.Namespace) -> int:
    logging.basicConfig(
        level=args.log_level.upper(),
        format="time=%(asctime)s level=%(levelname)s logger=%(name)s %(message)s",
    )
    deployment = load_deployment(args.deployment)
    uvloop.run(run_until_stopped(settings_for(deployment, args.name, socket=args.socket)))
    return 0
