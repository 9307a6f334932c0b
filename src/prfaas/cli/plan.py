"""``prfaas plan FILE``: threshold, split, what binds, what it costs, what if."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from prfaas.cli.console import progress_after, report_console
from prfaas.cli.description_options import add_description_options, described
from prfaas.cli.outputs import prepare_output
from prfaas.cli.plan_report import print_plan
from prfaas.cli.reports import add_json, teach
from prfaas.planner.compare import Plan, plan, walked_through
from prfaas.planner.pool_hits import HitPoint
from prfaas.planner.pool_plan import WalkedScenario, curve_of
from prfaas.planner.scenario import scenario_of
from prfaas.planner.whatif import BreakEven, WhatIf, break_even, what_ifs
from prfaas.plots.plan import check_plan_picture, draw_plan

EXAMPLES = """
examples:
  prfaas plan examples/paper.yaml                       the paper's case study
  prfaas plan examples/paper.yaml --plot plan.svg
  prfaas plan deployment.yaml --trace events.jsonl      for the requests of a gateway's journal
  prfaas plan examples/pool.yaml --trace conversation_trace.jsonl --plot hits.svg
                                                        what is found in agents' caches
  prfaas plan deployment.yaml --profile west=west.yaml --json | jq '.deployments[0]'

Exit status: 0, or 2 where the file is wrong or what it describes cannot be served.
"""
_SILENT_S = 2.0
"""A plan that takes longer says what it is at."""


class PlanReport(Plan, frozen=True, kw_only=True):
    """What ``prfaas plan --json`` prints."""

    break_even: BreakEven | None
    what_if: list[WhatIf]
    hit_curve: list[HitPoint] | None = None
    """With ``--plot``, of a trace that is walked through agents' caches."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_description_options(parser)
    add_json(parser, PlanReport)
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE",
        help="draw Lambda over N_p and t, and what of a trace agents' caches hold over their size, "
        "to .png, .svg or .pdf",
    )
    teach(parser, EXAMPLES)


def run(args: argparse.Namespace) -> int:
    """Plan the deployment and print it; returns the exit status."""
    scenario = scenario_of(
        described(args), source=str(args.description), beside=args.description.parent
    )
    prepare_output("--plot", args.plot)
    if args.plot is not None:
        check_plan_picture(scenario, args.plot)  # Better known before the search.
    with progress_after(_SILENT_S, "planning") as on_step:
        scenario = walked_through(scenario, on_step=on_step)
        result = plan(scenario, on_step=on_step)
        ours = next((d for d in result.deployments if d.name == "prfaas_pd"), None)
        changes = what_ifs(scenario, ours, on_step=on_step) if ours is not None else []
        curve = None
        if args.plot is not None and isinstance(scenario, WalkedScenario):
            curve = curve_of(scenario, on_step=on_step)
    prices = None
    if ours is not None:
        homogeneous = next(d for d in result.deployments if d.name == "homogeneous_pd")
        prices = break_even(scenario, ours, homogeneous)
    if args.plot is not None:
        draw_plan(scenario, args.plot, curve)
    if args.json:
        report = PlanReport(
            **msgspec.structs.asdict(result), break_even=prices, what_if=changes, hit_curve=curve
        )
        print(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
        return 0
    print_plan(result, prices, changes, report_console(), curve)
    if args.plot is not None:
        report_console().print(f"plot: {args.plot}", highlight=False)
    return 0
