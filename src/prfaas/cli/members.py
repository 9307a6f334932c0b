"""``prfaas members TEMPLATE``: keep a deployment file as the pods that there are."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from prfaas.cli.durations import more_than_none
from prfaas.launch.members import Members
from prfaas.process.logs import add_log_options, set_up_logs
from prfaas.process.signals import run_until_signal

log = logging.getLogger(__name__)

EXAMPLES = """
'prfaas render kubernetes' writes the template, and a sidecar of every pod runs this. It resolves
the pods' names again and again; agents and gateways read the file when it has changed.

examples:
  prfaas members template.json --out deployment.json --own-pod west-0

Exit status: 0 once it is told to stop, 2 where the template is none.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES
    parser.add_argument(
        "template", type=Path, metavar="TEMPLATE.json", help="what 'prfaas render kubernetes' wrote"
    )
    parser.add_argument(
        "-o", "--out", "--output", type=Path, required=True, metavar="FILE", help="what to write"
    )
    parser.add_argument("--own-pod", metavar="POD", help="the pod this runs in: always a member")
    parser.add_argument(
        "--own-address", metavar="IP", help="that pod's: its agent listens on IPv6 where it is one"
    )
    parser.add_argument(
        "--own-gateway", metavar="IP", help="the address of the gateway that reads the file"
    )
    parser.add_argument(
        "--own-service", metavar="NAME", help="the headless Service that this gateway is behind"
    )
    parser.add_argument(
        "--period",
        default="2 s",
        metavar="TIME",
        help="time between two looks (default: %(default)s)",
    )
    parser.add_argument(
        "--leave-after",
        default="60 s",
        metavar="TIME",
        help="a pod that is not found is a member so long (default: %(default)s)",
    )
    add_log_options(parser)


def run(args: argparse.Namespace) -> int:
    """Until it is told to stop; 0 then."""
    set_up_logs(args.log_level, form=args.log_format, file=args.log_file)
    period_s = more_than_none("--period", args.period)
    members = Members(
        args.template,
        args.out,
        own_pod=args.own_pod,
        own_address=args.own_address,
        own_gateway=args.own_gateway,
        own_service=args.own_service,
        leave_after_s=more_than_none("--leave-after", args.leave_after),
    )

    async def program() -> int:
        await members.run(period_s=period_s)
        return 0

    return run_until_signal(
        program(),
        stopped_status=0,
        on_hangup=lambda: log.info("SIGHUP: nothing to do, it looks all the time"),
    )
