"""``prfaas simulate`` end to end, on a small scenario."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prfaas.cli.main import main
from prfaas.scheduler.journal import decode

SCENARIO = """
clusters:
  - name: east
    kind: prfaas
    instances: {count: 2, profile: paper-1t-h200}
    prefix_cache: 1M
  - name: west
    kind: pd
    profile: paper-1t-h20-fit
    instances: [{role: prefill, count: 1}, {role: decode, count: 2}]
    prefix_cache: 1M
links: [{from: east, to: west, rate: 50 Gbps, rtt: 20 ms}]
workload: {requests: 60, output_tokens: 50, lengths: {lognormal: {}}, arrivals: {rate: 1.0}}
experiments:
  failures: [{engine: west-prefill-0, at: 10 s, for: 5 s}]
  runs:
  - {name: paper, scheduler: {policy: threshold, threshold: 19.4K}}
  - name: all PD
    scheduler: {policy: homogeneous}
    instances: {east: {}, west: {prefill: 3, decode: 2}}
"""

PROFILE = """
name: mine
hardware: made up
gpus: 8
source: this test
basis: measured
model: Kimi-Linear-48B-A3B
prefill: {points: {1K: 0.4, 128K: 7.0}}
decode: {points: {20: 0.025}}
"""


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "scenario.yaml"
    path.write_text(SCENARIO)
    return path


def test_table_and_json(scenario: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", str(scenario)]) == 0
    shown = capsys.readouterr().out
    assert "paper" in shown
    assert "all PD" in shown
    assert main(["simulate", str(scenario), "--json", "--policy", "paper", "elastic"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [run["policy"] for run in runs] == ["threshold", "elastic"]
    assert all(run["requests"] == 60 and run["lost"] == 0 for run in runs)


def test_the_same_seed_gives_the_same_bytes(scenario: Path, tmp_path: Path) -> None:
    logs = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for log in logs:
        assert main(["simulate", str(scenario), "--policy", "paper", "--events", str(log)]) == 0
    assert logs[0].read_bytes() == logs[1].read_bytes()
    lines = [decode(line) for line in logs[0].read_bytes().splitlines()]
    assert sum(type(item).__name__ == "RequestCompleted" for _, item in lines) == 60


def test_trace_plot_and_sweep(
    scenario: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "trace.jsonl"
    rows = [
        {
            "timestamp": 500 * i,
            "input_length": 3000,
            "output_length": 20,
            "hash_ids": list(range(5)),
        }
        for i in range(40)
    ]
    trace.write_text("\n".join(json.dumps(row) for row in rows))
    plot = tmp_path / "new" / "plot.svg"
    arguments = ["simulate", str(scenario), "--policy", "paper", "--trace", str(trace), "--json"]
    assert main([*arguments, "--plot", str(plot)]) == 0
    [run] = json.loads(capsys.readouterr().out)["runs"]
    assert run["cached_tokens_share"] > 0.7
    assert run["requests"] == 40
    assert plot.read_bytes().startswith(b"<?xml")
    plot.unlink()
    assert main([*arguments, "--sweep", "rate", "--plot", str(plot)]) == 0
    assert plot.read_bytes().startswith(b"<?xml")
    [sweep] = json.loads(capsys.readouterr().out)["runs"]
    assert sweep["best_req_per_s"] > 2
    assert any(not point["met"] for point in sweep["points"])
    assert main([*arguments, "--requests", "10"]) == 0
    [run] = json.loads(capsys.readouterr().out)["runs"]
    assert run["requests"] == 10


def test_lost_requests_say_why(scenario: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario.write_text(SCENARIO + "gateway: {request_deadline: 8 s}\n")
    assert main(["simulate", str(scenario), "--policy", "paper", "--json"]) == 0
    [run] = json.loads(capsys.readouterr().out)["runs"]
    assert 0 < run["lost"] < 60
    assert run["lost_by_error"] == {"deadline": run["lost"]}


def test_profiles_may_name_a_model_as_the_planners_do(
    scenario: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (scenario.parent / "mine.yaml").write_text(PROFILE)
    text = SCENARIO.replace("paper-1t-h200", "mine.yaml").replace("paper-1t-h20-fit", "mine.yaml")
    scenario.write_text(text)
    assert main(["simulate", str(scenario), "--policy", "naive", "--json"]) == 0
    [run] = json.loads(capsys.readouterr().out)["runs"]
    assert run["lost"] == 0
    assert run["egress_mean_bytes_per_s"] > 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--sweep", "rate", "--requests", "1"], "no rate to sweep"),
        (["--speed-up", "nan"], "speed-up nan: write more than 0"),
        (["--requests", "0"], "--requests: at least 1"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(
    scenario: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert main(["simulate", str(scenario), *arguments]) == 2
    assert says in capsys.readouterr().err


def test_events_of_one_run_only(scenario: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", str(scenario), "--events", "x.jsonl"]) == 2
    assert "--events writes one run" in capsys.readouterr().err


def test_roles_that_nobody_fixed_are_the_planners_and_said(
    scenario: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = "[{role: prefill, count: 1}, {role: decode, count: 2}]"
    assert split in SCENARIO
    scenario.write_text(
        SCENARIO.replace(split, "{count: 3}").replace("west-prefill", "west-decode")
    )
    assert main(["simulate", str(scenario), "--policy", "naive", "--json"]) == 0
    assert "decode: the planner's split" in capsys.readouterr().err
    assert main(["simulate", str(scenario), "--policy", "all PD", "--json"]) == 0
    assert "of west" not in capsys.readouterr().err


def test_runs_and_seeds_on_several_cores_give_the_same_table(
    scenario: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["simulate", str(scenario), "--seeds", "1", "2", "--json"]
    shown = []
    for more in ([], ["--parallel", "2"]):
        assert main([*asked, *more]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    names = [run["name"] for run in json.loads(shown[0])["runs"]]
    assert names == ["paper, seed 1", "paper, seed 2", "all PD, seed 1", "all PD, seed 2"]


def test_what_cannot_be_done_in_parallel_is_refused(
    scenario: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", str(scenario), "--parallel", "0"]) == 2
    assert "--parallel 0: at least 1" in capsys.readouterr().err
