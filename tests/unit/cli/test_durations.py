"""Looking again and again without a pause, or waiting for nothing, is nobody's wish."""

from __future__ import annotations

from pathlib import Path

import pytest

from prfaas.cli.main import main

SMALL = str(Path(__file__).parents[3] / "examples" / "deployments" / "small.yaml")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["status", SMALL, "--every", "0s"], "--every 0s: write more than 0"),
        (["status", SMALL, "--every", "often"], "duration 'often' is not a number with a unit"),
        (["members", "t.json", "-o", "f", "--period", "0s"], "--period 0s: write more than 0"),
        (["members", "t.json", "-o", "f", "--leave-after", "0s"], "--leave-after 0s: write more"),
        (["profile", "http://127.0.0.1:9", "-o", "p", "--time", "0s"], "--time 0s: write more"),
    ],
)
def test_none_is_refused(
    words: list[str],
    told: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert told in capsys.readouterr().err
