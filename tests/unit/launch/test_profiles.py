"""A profile beside the deployment file is found wherever the resolved file is written."""

from __future__ import annotations

from pathlib import Path

from prfaas.gateway.cost_seeds import cost_seeds
from prfaas.launch.start import load

FILE = """
clusters:
  - name: east
    kind: prfaas
    agent: {name: b, listen: "127.0.0.1:7000"}
    engines: [{name: p1, role: prefill}]
    profile: paper-1t-h200
  - name: west
    kind: pd
    agent: {name: a}
    engines: [{name: d1, role: decode, profile: profiles/mine.yaml}]
links: [{from: east, to: west}]
model: {path: "tiny:mla"}
"""
MINE = """
name: mine
hardware: made up
gpus: 8
source: this test
basis: measured
model: Kimi-Linear-48B-A3B
prefill: {points: {1K: 0.4, 128K: 7.0}}
decode: {points: {20: 0.025}}
"""


def test_the_costs_begin_with_the_profile_that_the_file_names(tmp_path: Path) -> None:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "mine.yaml").write_text(MINE)
    file = tmp_path / "deployment.yaml"
    file.write_text(FILE)
    deployment = load(file, model=None, listen=None)
    elsewhere = tmp_path / "run"
    assert set(cost_seeds(deployment, beside=elsewhere).seeds) == {"p1", "d1"}
    assert deployment.clusters[0].profile == "paper-1t-h200"
