"""What cannot be written is told before the work, not after it."""

from __future__ import annotations

from pathlib import Path

import pytest

from prfaas.cli.main import main
from prfaas.cli.outputs import prepare_output

PAPER = str(Path(__file__).resolve().parents[3] / "examples" / "paper.yaml")


def test_a_file_that_is_new_or_there_can_be_written(tmp_path: Path) -> None:
    prepare_output("--save", None)
    prepare_output("--save", tmp_path / "new")
    (tmp_path / "old").touch()
    prepare_output("--save", tmp_path / "old")


@pytest.mark.parametrize(
    "words",
    [
        ["simulate", PAPER, "--plot"],
        ["simulate", PAPER, "--policy", "auto", "--events"],
        ["plan", PAPER, "--plot"],
        ["bench", "http://127.0.0.1:9", "--rate", "1", "--save"],
        ["bench", "http://127.0.0.1:9", "--rate", "1", "--plot"],
        ["profile", "http://127.0.0.1:9", "-o", "x.yaml", "--plot"],
        ["profile", "http://127.0.0.1:9", "-o"],
        ["up", "--events"],
        ["replay", "journal.jsonl", "--plot"],
    ],
)
def test_every_verb_looks_before_it_works(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "out.svg"
    assert main([*words, str(place)]) == 2
    said = capsys.readouterr()
    assert f"{words[-1]} {place}: cannot be written: " in said.err
    assert said.out == ""


def test_a_directory_is_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up", "--events", str(tmp_path)]) == 2
    assert f"--events {tmp_path}: that is a directory" in capsys.readouterr().err
