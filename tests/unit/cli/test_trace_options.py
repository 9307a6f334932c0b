"""The options of traces, as ``prfaas simulate`` takes them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from prfaas.cli.main import main

EXAMPLE = Path(__file__).parents[3] / "examples" / "trace.yaml"


def trace(folder: Path, *rows: tuple[float, int]) -> str:
    path = folder / "t.jsonl"
    lines = [{"timestamp": at, "input_length": n, "output_length": 20} for at, n in rows]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return str(path)


def test_a_trace_is_clipped_and_the_share_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = trace(tmp_path, (0, 200_000), (1000, 3000), (2000, 1000), (3000, 500))
    arguments = ["simulate", str(EXAMPLE), "--trace", path, "--policy", "earliest", "--json"]
    assert main(arguments) == 2
    assert "with --clip 131072" in capsys.readouterr().err
    assert main([*arguments, "--clip", "128K"]) == 0
    shown = capsys.readouterr()
    assert "trace: 25.00% of the prompts were longer than 128K tokens" in shown.err
    assert json.loads(shown.out)["runs"][0]["requests"] == 4


def test_what_is_ambiguous_is_asked_for_and_may_be_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = trace(tmp_path, (0.5, 3000), (1.5, 1000))
    arguments = ["simulate", str(EXAMPLE), "--trace", path, "--policy", "earliest", "--json"]
    assert main(arguments) == 2
    assert "say which with time_unit (--time-unit)" in capsys.readouterr().err
    assert main([*arguments, "--time-unit", "s"]) == 0


def test_options_of_traces_are_refused_where_there_is_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    scenario = EXAMPLE.with_name("paper.yaml")
    assert main(["simulate", str(scenario), "--time-zone", "UTC"]) == 2
    assert "--time-zone: only of a trace; name one with --trace" in capsys.readouterr().err


def test_a_scenario_says_the_same_in_its_file_and_options_win(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace(tmp_path, (0.5, 9000), (1.5, 1000))
    text = EXAMPLE.read_text()
    assert "lengths: {" in text
    said = "trace: {file: t.jsonl, time_unit: s, clip: 8K}"
    (tmp_path / "s.yaml").write_text(re.sub("lengths: .*", said, text))
    arguments = ["simulate", str(tmp_path / "s.yaml"), "--policy", "earliest", "--json"]
    assert main(arguments) == 0
    assert "50.00% of the prompts were longer than 8K tokens" in capsys.readouterr().err
    assert main([*arguments, "--clip", "16K"]) == 0
    assert "0.00% of the prompts were longer than 16K tokens" in capsys.readouterr().err
