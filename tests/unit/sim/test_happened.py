"""A journal beside what the simulator makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from prfaas.cli.main import main
from prfaas.core.errors import CallerError
from prfaas.description.file import parse_description
from prfaas.scheduler.commands import ErrorKind, FailRequest
from prfaas.scheduler.events import (
    EngineDown,
    EngineUp,
    FirstToken,
    LinkStateChanged,
    RequestArrived,
    RequestCompleted,
)
from prfaas.scheduler.journal import CostInputs, Entry, JournalOpened, RequestEnded, encode
from prfaas.scheduler.topology import ClusterSpec, EngineSpec, LinkSpec, Topology
from prfaas.sim.happened import as_it_was, read_happened

FILE = """
clusters:
  - name: east
    kind: prfaas
    profile: paper-1t-h200
    agent: {name: ea}
    engines: [{name: e1, role: prefill}]
  - name: west
    kind: pd
    profile: paper-1t-h20-fit
    agent: {name: wa}
    engines: [{name: p1, role: prefill}, {name: d1, role: decode}, {name: d2, role: decode}]
links: [{from: east, to: west, rate: 10 Gbps, rtt: 20 ms}]
model: {block_tokens: 64}
workload:
  lengths: {lognormal: {mu: 8.5, sigma: 1.0, low: 128, high: 64K}}
  output_tokens: 100
  arrivals: {rate: 0.6}
  requests: 150
experiments:
  runs: [{name: paper, scheduler: {policy: threshold, threshold: 8K}}]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "deployment.yaml"
    path.write_text(FILE)
    return path


def rows(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    assert main(["simulate", *arguments, "--json"]) == 0
    found: list[dict[str, object]] = json.loads(capsys.readouterr().out)["runs"]
    return found


def test_a_simulated_journal_is_simulated_to_the_same_figures(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = file.with_name("events.jsonl")
    [simulated] = rows([str(file), "--events", str(journal)], capsys)
    plot = file.with_name("plot.svg")
    found = rows(
        [str(file), "--journal", str(journal), "--policy", "naive", "--plot", str(plot)], capsys
    )
    was, again, naive = found
    assert [row["name"] for row in found] == ["as it was", "threshold, simulated", "naive"]
    for name in ("requests", "lost", "offloaded_share", "throughput_req_per_s", "ttft_s"):
        assert was[name] == pytest.approx(simulated[name]), name
        assert again[name] == pytest.approx(simulated[name], rel=2e-3), name
    assert was["egress_mean_bytes_per_s"] == 0  # A simulator's journal has no bytes.
    assert naive["offloaded_share"] == 1
    assert plot.read_bytes().startswith(b"<?xml")


def test_a_journal_is_a_trace_for_the_planner(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = file.with_name("events.jsonl")
    rows([str(file), "--events", str(journal)], capsys)
    assert main(["plan", str(file), "--trace", str(journal), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["deployments"][0]["lambda_max_req_per_s"] > 0


def opened(unix_time: float | None = 1000.0) -> JournalOpened:
    engines = [("e1", "east", "prefill"), ("p1", "west", "prefill"), ("d1", "west", "decode")]
    return JournalOpened(
        driver="gateway",
        unix_time=unix_time,
        topology=Topology(
            (ClusterSpec("east", "prfaas"), ClusterSpec("west", "pd")),
            tuple(EngineSpec(n, c, r, up=False) for n, c, r in engines),  # type: ignore[arg-type]
            (LinkSpec("east", "west", 1.25e9),),
            64,
        ),
        scheduler=parse_description(FILE, source="f").scheduler,
        costs=CostInputs(),
    )


def line(at: float, up: bool) -> tuple[float, Entry]:
    return at, LinkStateChanged("east", "west", up)


def ended(request: str, received_at: float) -> RequestEnded:
    return RequestEnded(
        request_id=request, client_request_id=request, endpoint="/v1/completions", stream=True,
        received_at=received_at, status=200, outcome="ok",
    )  # fmt: skip


def write(path: Path, entries: list[tuple[float, Entry]]) -> Path:
    path.write_bytes(b"".join(encode(at, item) for at, item in entries))
    return path


ENTRIES: list[tuple[float, Entry]] = [
    (50.0, opened()),
    (50.0, EngineUp("e1")),
    line(50.1, False),
    line(50.2, True),
    (60.0, RequestArrived("a", 5000, 900, {"d1": 1024, "gone": 64}, None, {"d1": 0})),
    (61.0, FirstToken("a", 1)),
    line(62.0, False),
    (63.0, EngineDown("e1", "died")),
    (64.0, RequestArrived("b", 300, 40)),
    (65.0, RequestCompleted("a", 1)),
    (65.0, ended("a", 59.5)),
    line(66.0, True),
    (68.0, EngineUp("e1")),
    (70.0, RequestCompleted("b", 1)),
    (70.0, ended("b", 63.5)),
    (71.0, ended("refused", 70.9)),
]


def test_a_gateways_journal_says_what_came_what_was_cached_and_what_failed(tmp_path: Path) -> None:
    description = parse_description(FILE, source="f")
    found = read_happened(write(tmp_path / "j.jsonl", ENTRIES), description, beside=tmp_path)
    assert found.workload.arrivals == [0.0, 4.0]
    assert found.workload.prompts == [5000, 300]
    assert found.workload.held[0].cached == {"d1": 1024, "gone": 64}
    assert found.workload.held[0].resumable == {"d1": 0}
    assert found.table.ttft_s[0] == pytest.approx(1.5)
    assert np.isnan(found.table.ttft_s[1])
    assert found.left_out == 1
    [outage] = found.failures
    assert (outage.engine, outage.at, outage.duration) == ("e1", "3.500 s", "5.000 s")
    cuts = [(c.at, c.rate, c.cut) for c in found.line_changes]
    assert cuts[-2:] == [("2.500 s", None, True), ("6.500 s", "10 Gbps", False)]
    described, run = as_it_was(description, found)
    assert described.experiments.costs == "learned"
    assert described.experiments.failures == found.failures
    assert run.scheduler == found.opened.scheduler


def test_a_journal_says_why_requests_were_not_answered(tmp_path: Path) -> None:
    entries: list[tuple[float, Entry]] = [
        *ENTRIES,
        (72.0, RequestArrived("c", 300, 40)),
        (72.0, FailRequest("c", ErrorKind.OVERLOADED, "too late", 1.0)),
        (72.0, ended("c", 71.9)),
    ]
    description = parse_description(FILE, source="f")
    found = read_happened(write(tmp_path / "j.jsonl", entries), description, beside=tmp_path)
    assert found.failed_by_error == {"overloaded": 1}


def test_answers_are_as_long_as_their_decode_took(tmp_path: Path) -> None:
    entries = ENTRIES[:5]
    entries += [
        (60.0, RequestArrived("c", 300, 40)),
        (61.0, FirstToken("c", 1)),
        (63.0, RequestCompleted("c", 1)),
        (63.0, ended("c", 60.0)),
    ]
    found = read_happened(
        write(tmp_path / "j.jsonl", entries), parse_description(FILE, source="f"), beside=tmp_path
    )
    # No engine is known to have decoded it: what was allowed.
    assert found.workload.outputs == [40]


def test_answers_are_as_long_as_the_journal_says(tmp_path: Path) -> None:
    entries = [
        *ENTRIES[:5],
        (60.0, RequestArrived("c", 300, 40)),
        (61.0, FirstToken("c", 1)),
        (63.0, RequestCompleted("c", 1, 7)),
        (63.0, ended("c", 60.0)),
    ]
    found = read_happened(
        write(tmp_path / "j.jsonl", entries), parse_description(FILE, source="f"), beside=tmp_path
    )
    assert found.workload.outputs == [7]


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([], "how its gateway was set up"),
        ([(50.0, opened())], "no request of it has ended"),
    ],
)
def test_what_is_no_journal_of_requests_is_refused(
    tmp_path: Path, entries: list[tuple[float, Entry]], says: str
) -> None:
    path = write(tmp_path / "j.jsonl", entries)
    with pytest.raises(CallerError, match=says):
        read_happened(path, parse_description(FILE, source="f"), beside=tmp_path)
    with pytest.raises(CallerError, match="cannot be read"):
        read_happened(tmp_path / "no", parse_description(FILE, source="f"), beside=tmp_path)


def test_a_journal_is_replayed_as_it_was(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = write(file.with_name("j.jsonl"), ENTRIES)
    assert main(["simulate", str(file), "--journal", str(journal), "--speed-up", "2"]) == 2
    assert "replayed as it was" in capsys.readouterr().err
