"""Clusters and lines of a scenario, and what a mistake in them is answered with."""

from __future__ import annotations

from pathlib import Path

import pytest

from prfaas.core.errors import ConfigError
from prfaas.planner.scenario import parse_scenario

TEXT = (Path(__file__).parents[3] / "examples" / "paper.yaml").read_text()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("rate: 100 Gbps", "rate: 100", r"a number alone at .*rate; write its unit"),
        ("rate: 100 Gbps", "rate: 0 Gbps", "above zero"),
        ("rate: 100 Gbps", "rat: 100 Gbps", "did you mean 'rate'"),
        ("rate: 100 Gbps, ", "", "how much it carries is not known; add rate"),
        ("rtt: 20 ms", "rtt: 20", "no unit"),
        ("count: 4", "count: 0", "`int` >= 1"),
        (
            "      - {role: prefill, count: 3}\n      - {role: decode, count: 5}",
            "      - {count: 1}",
            r"'west'.*write 2 or",
        ),
        ("kind: pd", "kind: prfaas", "nothing could decode"),
        ("profile: paper-1t-h200}", "profile: h200}", "no built-in profile 'h200'"),
        ("profile: paper-1t-h20-fit", "profile: paper-1t-h200", "no 'decode' table"),
        (
            "{from: east, to: west, rate",
            "{from: mars, to: west, rate",
            "no cluster 'mars'; known: east, west",
        ),
        (
            "{from: east, to: west, rate",
            "{from: west, to: east, rate",
            "a PrfaaS cluster only sends",
        ),
        ("name: west", "name: east", "used twice"),
        ("east: 4.50", "east: -1", "usd_per_gpu_hour: east: -1; write 0"),
        ("usd_per_month: 10000", "usd_per_month: .inf", "usd_per_month: inf; write 0 or more"),
        ("usd_per_month: 10000", "usd_per_gb: .nan", "usd_per_gb: nan; write 0 or more"),
        ("usd_per_month: 10000", "usd_per_gb: 1.0e-300", "usd_per_gb: 1e-300; write 0, or 1e-09"),
        ("east: 4.50", "east: 1.0e+300", r"east: 1e\+300; write 0, or 1e-09"),
        (
            "\nlinks:\n",
            "\nlinks:\n  - {from: east, to: west, rate: 1 Gbps}\n",
            "written twice",
        ),
    ],
)
def test_a_mistake_is_answered_with_what_to_write(old: str, new: str, says: str) -> None:
    assert old in TEXT
    with pytest.raises(ConfigError, match=says) as caught:
        parse_scenario(TEXT.replace(old, new, 1), source="plan.yaml", beside=Path())
    assert str(caught.value).startswith("plan.yaml")


def test_a_prefill_cluster_needs_a_line() -> None:
    without = (
        TEXT[: TEXT.index("links:")] + "workload: {lengths: {lognormal: {}}, output_tokens: 9}"
    )
    with pytest.raises(ConfigError, match="'east' has no line to a PD cluster; add under 'links'"):
        parse_scenario(without, source="s", beside=Path())
