"""``prfaas gateway DEPLOYMENT.yaml``: run the OpenAI endpoint of a deployment."""

from __future__ import annotations

import argparse
import asyncio
import logging
from pathlib import Path

import uvloop

from prfaas.core.deployment import load_deployment
from prfaas.gateway.endpoints import resolve
from prfaas.gateway.server import serve


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "deployment",
        type=Path,
        metavar="DEPLOYMENT.yaml",
        help="deployment file in which every engine and agent has its address",
    )
    parser.add_argument(
        "--events", type=Path, metavar="FILE", help="append the journal: every event and command"
    )
    parser.add_argument(
        "--log-level",
        default="info",
        choices=("debug", "info", "warning", "error"),
        help="least severe message on standard error (default: info)",
    )


def run(args: argparse.Namespace) -> int:
    logging.basicConfig(
        level=args.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    deployment = load_deployment(args.deployment)
    endpoints = resolve(deployment, source=str(args.deployment))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(deployment, endpoints, journal_file=args.events))
    return 0
