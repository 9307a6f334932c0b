"""``prfaas gateway DEPLOYMENT.yaml``: run the OpenAI endpoint of a deployment."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

import uvloop

from prfaas.cli.gateway_workers import (
    add_worker_options,
    deployment_of,
    file_of,
    read_deployment,
    run_workers,
)
from prfaas.cli.reports import teach
from prfaas.core.deployment import Deployment
from prfaas.core.errors import ConfigError
from prfaas.gateway.cost_seeds import cost_seeds
from prfaas.gateway.endpoints import check_apart, resolve
from prfaas.gateway.gateway import Gateway
from prfaas.gateway.rereading import Rereading
from prfaas.gateway.server import Service, serve
from prfaas.gateway.tracing import make_tracing
from prfaas.process.freed_memory import giving_back_freed
from prfaas.process.logs import add_log_options, set_up_logs
from prfaas.process.reloading import Reloading, stamps
from prfaas.process.requirements import check_requirements
from prfaas.process.signals import run_until_signal
from prfaas.process.spans import add_trace_export_option

EXAMPLES = """
examples:
  prfaas gateway deployment.yaml
  prfaas gateway deployment.yaml --events /var/log/prfaas/events.jsonl --learned learned.json
  prfaas gateway deployment.yaml --name gateway-2       where the file has several
  prfaas gateway deployment.yaml --workers 4            four processes on its one port
  prfaas gateway qwen.yaml --also kimi.yaml             two models at the door of the first

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
    parser.add_argument(
        "--also",
        type=Path,
        action="append",
        default=[],
        metavar="OTHER.yaml",
        help="another deployment, with engines and agents of its own: the first answers for its "
        "models too; its own door is served as well, and FILE-OTHER is what --events and "
        "--learned then mean for it; may be given several times",
    )
    add_worker_options(parser)
    add_trace_export_option(parser)
    add_log_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the gateway; 0 once it is told to stop."""
    set_up_logs(args.log_level, form=args.log_format, file=args.log_file)
    check_requirements()
    workers = deployment_of(args).gateway.workers > 1 and args.worker is None
    if workers and args.also:
        raise ConfigError("--also: several processes on one port serve one deployment")
    hurry = asyncio.Event()
    hung_up: list[asyncio.Event] = []

    def service(file: Path, read: Callable[[], Deployment], suffix: str | None) -> Service:
        told = asyncio.Event()
        hung_up.append(told)

        def reloading(gateway: Gateway) -> Reloading:
            rereading = Rereading(gateway, read, source=str(file))
            return Reloading(
                file,
                rereading.take,
                asked=told,
                beside=rereading.named,
                on_end=lambda outcome: gateway.metrics.reloads.labels(outcome).inc(),
                since=since,
            )

        since = stamps([file])
        first = read()
        # What it names is read later, and watched when the gateway has started.
        since |= stamps(map(Path, first.secret_files))
        return Service(
            first,
            resolve(first, source=str(file)),
            journal_file=file_of(args.events, suffix),
            learned_file=file_of(args.learned, suffix),
            seeds=cost_seeds(first, beside=file.parent),
            reloading=reloading,
        )

    worker = None if args.worker is None else str(args.worker)
    services = {args.deployment: service(args.deployment, lambda: deployment_of(args), worker)}
    for file in args.also:
        if file in services:
            raise ConfigError(f"--also {file}: it is served already")
        services[file] = service(file, partial(read_deployment, file), file.stem)
    check_apart({str(file): service.endpoints for file, service in services.items()})
    if workers:
        return run_workers(args, services[args.deployment].deployment)
    program = serve(
        *services.values(),
        hurry=hurry,
        tracing=make_tracing(args.otlp_traces_endpoint, gateway=args.name or "gateway"),
        shared=args.worker is not None,
    )

    def hang_up() -> None:
        for told in hung_up:
            told.set()

    with giving_back_freed():
        return run_until_signal(
            program,
            stopped_status=0,
            loop_factory=uvloop.new_event_loop,
            on_hangup=hang_up,
            on_repeated=hurry.set,
        )
