"""``prfaas agent DEPLOYMENT.yaml --name AGENT``: run the agent of one machine until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

import uvloop

from prfaas.agent.service import serve
from prfaas.agent.settings import AgentSettings, settings_for
from prfaas.cli.reports import teach
from prfaas.core.deployment import check_borders, load_deployment
from prfaas.core.strict import naming
from prfaas.process.freed_memory import giving_back_freed
from prfaas.process.logs import add_log_options, set_up_logs
from prfaas.process.reloading import Reloading, stamps
from prfaas.process.requirements import check_requirements
from prfaas.process.signals import run_until_signal
from prfaas.process.spans import add_trace_export_option, make_spans

EXAMPLES = """
examples:
  prfaas agent deployment.yaml --name east-agent
  prfaas agent deployment.yaml --name east-agent --socket /run/prfaas/agent.sock

SIGHUP has it read the file again. Exit status: 0 where it was told to stop, 2 where the file is
wrong or what it names cannot be had: an address, memory, certificates.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    teach(parser, EXAMPLES)
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
    add_trace_export_option(parser)
    add_log_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the agent; 0 once it is told to stop. It reads the file again when that
    has changed, or on SIGHUP; and when certificates that it names have, for which it may have been
    refused."""
    set_up_logs(args.log_level, form=args.log_format, file=args.log_file)
    check_requirements()
    named = list[Path]()

    def read() -> AgentSettings:
        deployment = load_deployment(args.deployment)
        settings = settings_for(deployment, args.name, socket=args.socket)
        with naming(str(args.deployment)):
            check_borders(deployment)
        named[:] = () if settings.tls is None else settings.tls.paths
        return settings

    spans = make_spans(args.otlp_traces_endpoint, service="prfaas-agent", instance=args.name)
    since = stamps([args.deployment])
    settings, told = read(), asyncio.Event()
    since |= stamps(named)
    watched = Reloading(
        args.deployment, told.set, asked=asyncio.Event(), beside=lambda: named, since=since
    )

    async def program() -> int:
        watching = asyncio.create_task(watched.run())
        try:
            await serve(settings, reread=read, told=told, spans=spans)
        finally:
            watching.cancel()

    with giving_back_freed():
        return run_until_signal(
            program(),
            stopped_status=0,
            loop_factory=uvloop.new_event_loop,
            on_hangup=told.set,
        )
