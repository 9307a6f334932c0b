"""The report of a plan."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from prfaas.cli.plan_report import print_plan
from prfaas.planner.compare import Plan, plan
from prfaas.planner.scenario import load_scenario
from prfaas.planner.whatif import BreakEven, WhatIf

EXAMPLES = Path(__file__).parents[3] / "examples"
PAPER = plan(load_scenario(EXAMPLES / "paper.yaml"))


def printed(
    result: Plan, prices: BreakEven | None = None, changes: list[WhatIf] | None = None
) -> str:
    console = Console(width=240)
    with console.capture() as captured:
        print_plan(result, prices, changes or [], console)
    return captured.get()


def test_what_is_not_there_is_a_dash() -> None:
    text = printed(PAPER)
    assert "break-even" not in text
    assert "What if" not in text
    naive = next(line for line in text.splitlines() if "N_prfaas / N_p / N_d" in line)
    assert "4 / 3 / 5" in naive
    assert "4 / - / 8" in naive


def test_many_binding_constraints_are_counted() -> None:
    ours = msgspec.structs.replace(PAPER.deployments[0], binding_constraint="a, b, c, d, e, f")
    text = printed(msgspec.structs.replace(PAPER, deployments=[ours, *PAPER.deployments[1:]]))
    assert "a, b, c, d, and 2 more" in text


def test_prices_and_changes_are_shown_when_there_are_some() -> None:
    prices = BreakEven(
        against="homogeneous_pd",
        prfaas_usd_per_gpu_hour=7.19,
        lines_usd_per_month=72_725.0,
        traffic_usd_per_gb=0.0158,
    )
    change = WhatIf(
        change="every line x 0.5", lambda_max_req_per_s=2.0, relative=0.8, threshold_tokens=None,
        n_p=1, n_d=2, egress_bytes_per_s=1e9, binding_constraint="line",
    )  # fmt: skip
    text = printed(PAPER, prices, [change])
    assert "PrfaaS GPU 7.19 USD/h, or lines 72,725 USD/month, or traffic 0.0158 USD/GB" in text
    assert "-20%" in text
    assert "8.0 Gbit/s" in text


@pytest.mark.parametrize("threshold", [None, 22_192.0])
def test_the_bound_says_whether_one_threshold_reaches_it(threshold: float | None) -> None:
    bound = msgspec.structs.replace(PAPER.fluid_bound, threshold_tokens=threshold)
    text = printed(msgspec.structs.replace(PAPER, fluid_bound=bound))
    says = "no single threshold" if threshold is None else "longer than 22,192 tokens reaches it"
    assert says in text
