"""``prfaas kv`` and ``prfaas plan`` from the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import msgspec
import pytest

from prfaas.cli.kv import KvReport
from prfaas.cli.main import main
from prfaas.core.errors import CallerError, ConfigError
from prfaas.planner.scenario import load_scenario
from prfaas.plots.plan import draw_plan

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
    text = re.sub(r"(usd_per_\w+: )[0-9.]+", r"\g<1>0", EXAMPLE.read_text())
    (tmp_path / "free.yaml").write_text(text)
    assert main(["plan", str(tmp_path / "free.yaml")]) == 0
    assert re.search(r"requests per USD(\W+-){3}", capsys.readouterr().out)


def test_a_png_is_drawn_and_other_formats_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    scenario = load_scenario(EXAMPLE)
    draw_plan(scenario, tmp_path / "plan.png")
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match=r"ending in .png or .svg"):
        draw_plan(scenario, tmp_path / "plan.pdf")


def test_a_plot_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "file").touch()
    with pytest.raises(CallerError, match=r"plan\.svg: cannot be written"):
        draw_plan(load_scenario(EXAMPLE), tmp_path / "file" / "plan.svg")


def test_plan_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "missing.yaml"]) == 2
    assert "missing.yaml: cannot be read" in capsys.readouterr().err


def test_kv_prints_layers_sizes_and_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kv", "Kimi-Linear-48B-A3B", "--tokens", "32K"]) == 0
    out = capsys.readouterr().out
    for text in ("Kimi Delta Attention", "8,064 bytes per token", "293.4 MiB", "(implied)"):
        assert text in out


def test_kv_json_and_dtypes(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["kv", "Qwen3.8-27B", "--state-dtype", "bf16", "--kv-dtype", "fp8", "--json"]
    assert main([*arguments, "--tokens", "1024"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["constant_bytes"] == 78446592
    assert report["bytes_per_token"] == 32768
    assert report["lengths"] == [{"tokens": 1024, "bytes": 78446592 + 32768 * 1024}]


def test_kv_lists_the_catalogue_and_names_what_it_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kv", "--list"]) == 0
    assert "Kimi-K3" in capsys.readouterr().out
    assert main(["kv"]) == 2
    assert main(["kv", "gpt-oss-120"]) == 2
    assert "did you mean gpt-oss-120b" in capsys.readouterr().err


def test_kv_json_is_what_its_schema_says(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["Kimi-Linear-48B-A3B"], ["DeepSeek-V4-Flash", "--tokens", "1M"]):
        assert main(["kv", *arguments, "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        jsonschema.validate(report, msgspec.json.schema(KvReport))
        assert set(report) == set(KvReport.__struct_fields__)


def test_kv_takes_vllms_flags(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--dtype", "float32", "--kv-cache-dtype", "auto", "--mamba-cache-dtype", "auto"]
    assert main(["kv", "Jamba2-Mini", *flags, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["dtype"], report["kv_dtype"], report["state_dtype"]) == ("float32",) * 3
    assert main(["kv", "Jamba2-Mini", "--kv-cache-dtype", "turboquant_k8v4"]) == 2
    assert "unknown dtype 'turboquant_k8v4'" in capsys.readouterr().err


def test_kv_help_teaches_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["kv", "--help"])
    assert "prfaas kv ./my-model --tokens 32K" in capsys.readouterr().out
