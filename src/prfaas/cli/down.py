"""``prfaas down``: ends a running ``prfaas up``, all its processes included, also on Ray."""

from __future__ import annotations

import argparse
import sys

import msgspec

from prfaas.cli.reports import add_json, teach
from prfaas.core.errors import ConfigError
from prfaas.core.units import parse_duration
from prfaas.launch.ray.runs import RayRun, remembered
from prfaas.launch.runs import Run, end, running, the_running

EXAMPLES = """
examples:
  prfaas down                          end the one that runs
  prfaas down 20260101-120000-4711     end this one of several ('prfaas up' names it as its logs)
  prfaas down --all --wait '2 min'     end every one of yours
  prfaas down --ray                    end what is on this machine's Ray cluster, whoever started it

Exit status: 0 where all that was asked to end has ended, 1 where nothing ran or something still
ends after --wait, 2 where it is not clear which one is meant.
"""


class DownReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``prfaas down --json`` prints: names of runs."""

    ended: list[str]
    still_ending: list[str]


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    teach(parser, EXAMPLES)
    parser.add_argument("run", nargs="?", metavar="RUN", help="end this one, where several run")
    parser.add_argument("--all", action="store_true", help="end every run of yours on this machine")
    parser.add_argument(
        "--wait",
        default="60 s",
        metavar="TIME",
        help="wait so long for the end (default: %(default)s)",
    )
    parser.add_argument(
        "--ray",
        nargs="?",
        const="auto",
        metavar="ADDRESS",
        help="what is on this Ray cluster; without it also what was put on one from here",
    )
    add_json(parser, DownReport)


def run(args: argparse.Namespace) -> int:
    """End what was chosen; 1 where something has not ended in time."""
    timeout_s = parse_duration(args.wait)
    chosen = _chosen(args)
    gone = {}
    for one in chosen:
        name = _name(one)
        if not args.json:
            print(f"Ending {name} ...", flush=True)
        gone[name] = _end(one, timeout_s)
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


def _chosen(args: argparse.Namespace) -> list[Run | RayRun]:
    if args.ray is not None:
        from prfaas.launch.ray import run as on_ray  # Only where it is asked for: Ray is an extra.

        there: list[Run | RayRun] = [*on_ray.found_at(args.ray)]
        named = [one for one in there if args.run in (None, _name(one))]
        if args.run is not None and not named:
            known = ", ".join(map(_name, there)) or "none"
            raise ConfigError(f"no run {args.run!r} on that Ray cluster; there: {known}")
        return named
    on_ray_from_here = remembered()
    runs: list[Run | RayRun] = [*running(), *on_ray_from_here]
    if args.all or not runs:
        return runs
    for one in on_ray_from_here:
        if args.run == one.space:
            return [one]
    if args.run is None and len(runs) > 1 and on_ray_from_here:
        raise ConfigError(f"several run; name one: {', '.join(map(_name, runs))}")
    return [the_running(args.run)] if args.run or len(runs) > 1 else runs


def _name(run: Run | RayRun) -> str:
    return run.space if isinstance(run, RayRun) else run.name


def _end(run: Run | RayRun, timeout_s: float) -> bool:
    if isinstance(run, Run):
        return end(run, timeout_s=timeout_s)
    from prfaas.launch.ray import run as on_ray

    try:
        on_ray.down(run)
    except ConfigError as error:
        print(
            f"{run.space} is forgotten: {error}. If it runs on 'prfaas down --ray ADDRESS' ends it",
            file=sys.stderr,
        )
    return True
