"""A description on the command line, with what is named beside its file; the same for every verb
that plans."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from prfaas.cli.trace_options import add_trace_options, told
from prfaas.core.errors import ConfigError
from prfaas.core.strict import naming
from prfaas.description.file import Description, check_description, load_description, load_workload
from prfaas.description.workload import with_trace
from prfaas.workload.files import TraceSource


def add_description_options(parser: argparse.ArgumentParser) -> None:
    """Add the file and the options; `described` reads them."""
    parser.add_argument(
        "description",
        type=Path,
        metavar="FILE",
        help="a deployment file, of a running system or of planned hardware (docs/planner.md)",
    )
    parser.add_argument(
        "--profile",
        action="append",
        default=[],
        metavar="[NAME=]PROFILE",
        help="how fast the engines are, or those of a cluster or engine: a built-in profile, or "
        "what 'prfaas profile' wrote",
    )
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument(
        "--workload", type=Path, metavar="FILE", help="a workload in place of the file's own"
    )
    asked.add_argument(
        "--trace", type=Path, metavar="FILE", help="a trace, or a gateway's journal, likewise"
    )
    add_trace_options(parser)


def described(args: argparse.Namespace) -> Description:
    """The description that the options tell of. Raises ConfigError that says what to write."""
    found = load_description(args.description)
    workload = found.workload
    if args.workload is not None:
        workload = load_workload(args.workload)
    source = None if args.trace is None else TraceSource(file=str(args.trace.resolve()))
    workload = with_trace(workload, source, told(args))
    found = msgspec.structs.replace(found, workload=workload)
    found = found.with_profiles(dict(_profile(text) for text in args.profile))
    with naming(str(args.description)):
        check_description(found)
    return found


def _profile(text: str) -> tuple[str, str]:
    """(cluster or engine, ``""`` for all; profile): files start from where the command runs."""
    name, separator, profile = text.rpartition("=")
    if not profile or (separator and not name):
        raise ConfigError(f"--profile {text}: write PROFILE or NAME=PROFILE")
    if profile.endswith((".yaml", ".yml")):
        profile = str(Path(profile).resolve())
    return name, profile
