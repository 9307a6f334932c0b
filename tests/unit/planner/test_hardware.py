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
        ("bandwidth: 100 Gbps", "bandwidth: 100", r"line from east.*no unit.*'200 Mbit/s'"),
        ("bandwidth: 100 Gbps", "bandwidth: 0 Gbps", "more than 0"),
        ("bandwidth: 100 Gbps", "bandwith: 100 Gbps", "did you mean 'bandwidth'"),
        ("rtt: 20 ms", "rtt: 20", "no unit"),
        ("instances: 4", "instances: 0", r"cluster 'east'.*write 1 or more"),
        ("instances: 8", "instances: 1", r"cluster 'west'.*write 2 or more"),
        ("kind: pd", "kind: prfaas", "nothing could decode"),
        ("profile: paper-1t-h200 ", "profile: h200 ", "no built-in profile 'h200'"),
        ("profile: paper-1t-h20-fit", "profile: paper-1t-h200", "no 'decode' table"),
        ("from: east", "from: mars", "no cluster is named 'mars'; known: east, west"),
        ("from: east\n    to: west", "from: west\n    to: east", "is it turned around"),
        ("name: west", "name: east", "used twice"),
        ("usd_per_gpu_hour: 4.50", "usd_per_gpu_hour: -1", "'east': usd_per_gpu_hour: -1; write 0"),
        ("usd_per_month: 10000", "usd_per_month: .inf", "usd_per_month: inf; write 0 or more"),
        ("rtt: 20 ms", "rtt: 20 ms\n    usd_per_gb: .nan", "usd_per_gb: nan; write 0 or more"),
        (
            "lines:\n",
            "lines:\n  - {from: east, to: west, bandwidth: 1 Gbps}\n",
            "given twice; add their bandwidths",
        ),
    ],
)
def test_a_mistake_is_answered_with_what_to_write(old: str, new: str, says: str) -> None:
    assert old in TEXT
    with pytest.raises(ConfigError, match=says) as caught:
        parse_scenario(TEXT.replace(old, new), source="plan.yaml", beside=Path())
    assert str(caught.value).startswith("plan.yaml")


def test_a_prefill_cluster_needs_a_line() -> None:
    with pytest.raises(ConfigError, match="'east' has no line to a PD cluster; add under 'lines'"):
        parse_scenario(TEXT[: TEXT.index("lines:")], source="s", beside=Path())
