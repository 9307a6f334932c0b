"""``prfaas doctor``: what would go wrong on this machine, and what to do about it."""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path

import msgspec
from rich.console import Console
from rich.text import Text

from prfaas.cli.console import report_console
from prfaas.cli.reports import add_json, teach
from prfaas.cli.which_deployment import file_here
from prfaas.core.deployment import Deployment, load_deployment
from prfaas.core.errors import CallerError, ConfigError
from prfaas.core.units import format_count, parse_duration
from prfaas.doctor.examine import examine
from prfaas.doctor.finding import Finding, ok
from prfaas.launch.runs import running

EXAMPLES = """
examples:
  prfaas doctor                         this machine: Python, vLLM, memory, limits, network cards;
                                        and what 'prfaas up' runs on it
  prfaas doctor deployment.yaml         and its ports, certificates, clocks, the way to every agent,
                                        RTT and rate of every pair of agents
  prfaas doctor deployment.yaml --measure 0      without sending test data over the KV links
  prfaas doctor deployment.yaml --ray    and the Ray cluster here: has it a node for everything?
  prfaas doctor deployment.yaml --json | jq '.findings[] | select(.level == "error")'

Run it on every machine of the deployment, before and while it runs. Exit status: 0 where nothing
is in the way, 1 where something is (an "error"), 2 where the file is wrong.
"""
_LEAST_S, _MOST_S = 0.1, 10.0
_STYLE = {"ok": "green", "note": "dim", "warning": "yellow", "error": "bold red"}


class DoctorReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``prfaas doctor --json`` prints."""

    findings: list[Finding]
    errors: int
    warnings: int


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    teach(parser, EXAMPLES)
    parser.add_argument(
        "deployment",
        nargs="?",
        type=Path,
        metavar="DEPLOYMENT.yaml",
        help="deployment file; without one: that of the running 'prfaas up', if one runs",
    )
    parser.add_argument(
        "--measure",
        default="1 s",
        metavar="TIME",
        help="how long test data goes from each agent to each other; 0: none (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--ray",
        nargs="?",
        const="auto",
        metavar="ADDRESS",
        help="look at this Ray cluster, too; without ADDRESS at the one of this machine",
    )
    add_json(parser, DoctorReport)


def run(args: argparse.Namespace) -> int:
    """Look, and show what is found; 1 where something is in the way."""
    console = None if args.json else report_console()
    measure_s = _measure_s(args.measure)
    deployment, findings = _whose(args.deployment)
    for finding in findings:
        _show(finding, console)
    findings += asyncio.run(_examine(deployment, console, measure_s=measure_s))
    if args.ray is not None:
        findings.append(_on_ray(deployment, args.ray))
        _show(findings[-1], console)
    levels = [finding.level for finding in findings]
    report = DoctorReport(findings, levels.count("error"), levels.count("warning"))
    if console is None:
        print(msgspec.json.encode(report).decode())
    else:
        console.print(
            f"\n{format_count(report.errors, 'error')}, "
            f"{format_count(report.warnings, 'warning')}, {format_count(len(levels), 'finding')}",
            highlight=False,
        )
    return 1 if report.errors else 0


def _whose(file: Path | None) -> tuple[Deployment | None, list[Finding]]:
    """The deployment of the file, or what runs here, which is said; None where nothing does."""
    if file is not None:
        return load_deployment(file), []
    if not running():
        return None, []
    file = file_here()
    return load_deployment(file), [ok("deployment", f"{file}, which 'prfaas up' runs here")]


def _measure_s(text: str) -> float:
    seconds = 0.0 if text == "0" else parse_duration(text)
    if seconds and not _LEAST_S <= seconds <= _MOST_S:
        raise CallerError(f"--measure {text}: write 0, or {_LEAST_S:g} s to {_MOST_S:g} s")
    return seconds


async def _examine(
    deployment: Deployment | None, console: Console | None, *, measure_s: float
) -> list[Finding]:
    """Findings are printed as they are made: some wait for a network."""
    findings = []
    async for finding in examine(deployment, now=time.time(), measure_s=measure_s):
        findings.append(finding)
        _show(finding, console)
    return findings


def _show(finding: Finding, console: Console | None) -> None:
    if console is not None:
        console.print(_line(finding), soft_wrap=True)


def _on_ray(deployment: Deployment | None, address: str) -> Finding:
    try:
        # Only where it is asked for: Ray is an extra.
        from prfaas.launch.ray.cluster import connected, room_for

        with connected(address):
            found = room_for(deployment)
    except ConfigError as error:
        return Finding("ray cluster", "error", str(error), "see docs/ray.md")
    nodes = ", ".join(f"{count} of {label or 'no cluster'}" for label, count in found.items())
    return ok("ray cluster", f"nodes: {nodes}" + ("; all machines fit" if deployment else ""))


def _line(finding: Finding) -> Text:
    text = Text.assemble(
        (f"{finding.level:8}", _STYLE[finding.level]),
        (f"{finding.check}: ", "bold"),
        finding.found,
    )
    return text.append(f"\n        -> {finding.advice}") if finding.advice else text
