"""``prfaas down``: ends a running ``prfaas up``, all its processes included."""

from __future__ import annotations

import argparse
import sys

import msgspec

from prfaas.cli.reports import add_json, teach
from prfaas.core.units import parse_duration
from prfaas.launch.runs import Run, end, running, the_running

EXAMPLES = """
examples:
  prfaas down                          end the one that runs
  prfaas down 20260101-120000-4711     end this one of several ('prfaas up' names it as its logs)
  prfaas down --all --wait '2 min'     end every one of yours

Exit status: 0 where all that was asked to end has ended, 1 where nothing ran or something still
ends after --wait, 2 where it is not clear which one is meant.
"""


class DownReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``prfaas down --json`` prints: names of runs."""

    ended: list[str]
    still_ending: list[str]


def configure(parser: argparse.ArgumentParser) -> None:
    teach(parser, EXAMPLES)
    parser.add_argument("run", nargs="?", metavar="RUN", help="which one, where several run")
    parser.add_argument("--all", action="store_true", help="every run of yours on this machine")
    parser.add_argument(
        "--wait", default="60 s", metavar="TIME", help="for how long (default: %(default)s)"
    )
    add_json(parser, DownReport)


def run(args: argparse.Namespace) -> int:
    timeout_s = parse_duration(args.wait)
    chosen = _chosen(args)
    if not args.json:
        for one in chosen:
            print(f"Ending {one.name} ...", flush=True)
    gone = {one.name: end(one, timeout_s=timeout_s) for one in chosen}
    report = DownReport(
        ended=[name for name, ended in gone.items() if ended],
        still_ending=[name for name, ended in gone.items() if not ended],
    )
    if args.json:
        print(msgspec.json.encode(report).decode())
    elif not chosen:
        print("Nothing of 'prfaas up' runs on this machine.", file=sys.stderr)
    for name in report.still_ending:
        print(f"{name} still ends after {args.wait}; look again later", file=sys.stderr)
    return 0 if report.ended and not report.still_ending else 1


def _chosen(args: argparse.Namespace) -> list[Run]:
    if args.all or not (runs := running()):
        return running()
    return [the_running(args.run)] if args.run or len(runs) > 1 else runs
