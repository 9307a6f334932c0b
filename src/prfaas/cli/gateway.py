"""``prfaas gateway DEPLOYMENT.yaml``: run the OpenAI endpoint of a deployment."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

import uvloop

from prfaas.cli.gateway_workers import (
    add_worker_options,
    deployment_of,
    file_of,
    run_workers,
)
from prfaas.cli.reports import teach
from prfaas.gateway.cost_seeds import cost_seeds
from prfaas.gateway.endpoints import resolve
from prfaas.gateway.gateway import Gateway
from prfaas.gateway.server import serve
from prfaas.gateway.tracing import make_tracing
from prfaas.process.logs import add_log_options, set_up_logs
from prfaas.process.reloading import Reloading
from prfaas.process.signals import run_until_signal
from prfaas.process.spans import add_trace_export_option

EXAMPLES = """
examples:
  prfaas gateway deployment.yaml
  prfaas gateway deployment.yaml --events /var/log/prfaas/events.jsonl --learned learned.json
  prfaas gateway deployment.yaml --name gateway-2       where the file has several
  prfaas gateway deployment.yaml --workers 4            four processes on its one port

SIGHUP has it read the file again, SIGTERM has it finish what runs, a second one end at once. Exit
status: 0 where it was told to stop, 2 where the file is wrong or the address is taken.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    teach(parser, EXAMPLES)
    parser.add_argument(
        "deployment",
        type=Path,
        metavar="DEPLOYMENT.yaml",
        help="deployment file in which every engine and agent has its address",
    )
    parser.add_argument(
        "--name", metavar="GATEWAY", help="which gateway of the file (default: its first)"
    )
    parser.add_argument(
        "--events", type=Path, metavar="FILE", help="append the journal: every event and command"
    )
    parser.add_argument(
        "--learned",
        type=Path,
        metavar="FILE",
        help="keep what is learned of engines here, and begin with what a gateway has left",
    )
    add_worker_options(parser)
    add_trace_export_option(parser)
    add_log_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the gateway; 0 once it is told to stop."""
    set_up_logs(args.log_level, form=args.log_format, file=args.log_file)
    deployment = deployment_of(args)
    endpoints = resolve(deployment, source=str(args.deployment))
    if deployment.gateway.workers > 1 and args.worker is None:
        return run_workers(args, deployment)
    hurry, hung_up = asyncio.Event(), asyncio.Event()

    def reloading(gateway: Gateway) -> Reloading:
        return Reloading(
            args.deployment,
            lambda: gateway.become(deployment_of(args), source=str(args.deployment)),
            asked=hung_up,
            beside=lambda: [Path(file) for file in gateway.deployment.secret_files],
            on_end=lambda outcome: gateway.metrics.reloads.labels(outcome).inc(),
        )

    program = serve(
        deployment,
        endpoints,
        journal_file=file_of(args.events, args.worker),
        learned_file=file_of(args.learned, args.worker),
        seeds=cost_seeds(deployment, beside=args.deployment.parent),
        hurry=hurry,
        reloading=reloading,
        tracing=make_tracing(args.otlp_traces_endpoint, gateway=args.name or "gateway"),
        shared=args.worker is not None,
    )
    return run_until_signal(
        program,
        stopped_status=0,
        loop_factory=uvloop.new_event_loop,
        on_hangup=hung_up.set,
        on_repeated=hurry.set,
    )
