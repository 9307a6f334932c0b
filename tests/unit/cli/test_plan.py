"""``prfaas plan`` from the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tests.unit.planner.pools import written

from prfaas.cli.main import main
from prfaas.testing.conversation_trace import conversation_trace

EXAMPLE = Path(__file__).parents[3] / "examples" / "paper.yaml"
FIELDS = {
    "name", "lambda_max_req_per_s", "threshold_tokens", "n_prfaas", "n_p", "n_d",
    "theta_prfaas_req_per_s", "theta_pd_p_req_per_s", "theta_pd_d_req_per_s", "offloaded_share",
    "egress_bytes_per_s", "binding_constraint",
}  # fmt: skip


def test_plan_json_has_the_promised_fields(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(EXAMPLE), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    by_name = {row["name"]: row for row in report["deployments"]}
    assert {"prfaas_pd", "homogeneous_pd", "naive_heterogeneous_pd"} <= set(by_name)
    assert all(set(row) >= FIELDS for row in report["deployments"])
    assert (by_name["prfaas_pd"]["n_p"], by_name["prfaas_pd"]["n_d"]) == (3, 5)


def test_plan_prints_the_fit_and_the_bound_and_draws(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    target = tmp_path / "new" / "plan.svg"
    assert main(["plan", str(EXAMPLE), "--plot", str(target)]) == 0
    out = capsys.readouterr().out
    for text in ("(fit)", "bound, elastic roles: 3.33", "break-even", "What if"):
        assert text in out
    assert re.search(r"threshold t, tokens\W+19,\d{3}\b", out)
    assert "<svg" in target.read_text()


def test_what_is_free_is_planned_and_shown(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = re.sub(r"(usd_per_month: |east: |west: )[0-9.]+", r"\g<1>0", EXAMPLE.read_text())
    (tmp_path / "free.yaml").write_text(text)
    assert main(["plan", str(tmp_path / "free.yaml")]) == 0
    assert re.search(r"requests per USD(\W+-){3}", capsys.readouterr().out)


def test_plan_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "missing.yaml"]) == 2
    assert "missing.yaml: cannot be read" in capsys.readouterr().err


def test_a_trace_is_clipped_by_option_and_the_share_said(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rows = [{"input_length": n, "output_length": 100} for n in (200_000, 50_000, 3000, 1000)]
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    lognormal = "lengths:\n    lognormal: {mu: 9.90, sigma: 1.00, low: 128, high: 128K}"
    text = EXAMPLE.read_text()
    assert lognormal in text
    (tmp_path / "s.yaml").write_text(text.replace(lognormal, "trace: {file: t.jsonl}"))
    assert main(["plan", str(tmp_path / "s.yaml")]) == 2
    assert "with --clip 131072" in capsys.readouterr().err
    assert main(["plan", str(tmp_path / "s.yaml"), "--clip", "128K", "--json"]) == 0
    notes = json.loads(capsys.readouterr().out)["notes"]
    assert "trace: 25.00% of the prompts were longer than 128K tokens and were cut to them" in notes


def test_what_agents_caches_hold_is_shown_and_drawn(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    trace = written(conversation_trace(12, rate=0.5), tmp_path / "t.jsonl")
    command = ["plan", str(EXAMPLE.with_name("pool.yaml")), "--trace", str(trace)]
    assert main(command) == 0
    out = capsys.readouterr().out
    for text in ("prompt tokens found in caches", "no agents' caches", "no bound to caches"):
        assert text in out
    assert "memory for caches, a machine" not in out
    plot = ["--plot", str(tmp_path / "hits.svg")]
    assert main([*command, *plot]) == 0
    assert re.search(r"4\.0 GiB\W+\d+\.\d%", capsys.readouterr().out)
    assert "<svg" in (tmp_path / "hits.svg").read_text()
    assert main([*command, *plot, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["hit_curve"][-1]["memory_bytes"] is None
    assert report["deployments"][0]["hits"]["memory"] > 0


def test_a_pd_cluster_alone_has_its_hits_drawn(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    trace = written(conversation_trace(12, rate=0.5), tmp_path / "t.jsonl")
    text = EXAMPLE.with_name("pool.yaml").read_text()
    east, links = text.index("  - name: east"), text.index("links:")
    west, model = text.index("  - name: west"), text.index("model:")
    (tmp_path / "pd.yaml").write_text(text[:east] + text[west:links] + text[model:])
    plot = tmp_path / "hits.svg"
    command = ["plan", str(tmp_path / "pd.yaml"), "--trace", str(trace), "--plot", str(plot)]
    assert main(command) == 0
    assert "prompt tokens found in caches" in capsys.readouterr().out
    assert "<svg" in plot.read_text()


def test_options_of_traces_are_refused_where_there_is_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["plan", str(EXAMPLE), "--clip", "128K"]) == 2
    assert "--clip: only of a trace" in capsys.readouterr().err


def test_what_cannot_be_drawn_is_said_before_anything_is_planned(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    sites = EXAMPLE.with_name("two-sites.yaml")
    assert main(["plan", str(sites), "--plot", str(tmp_path / "p.svg")]) == 2
    shown = capsys.readouterr()
    assert "--plot draws scenarios of one PrfaaS cluster" in shown.err
    assert shown.out == ""
