"""What `up`, `down` and verbs without a file make of Ray, as far as that needs no Ray."""

from __future__ import annotations

from pathlib import Path

import pytest

from prfaas.cli.main import main
from prfaas.launch.ray.runs import RayRun


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def _remembered(*names: str) -> None:
    for name in names:
        run = RayRun(space=name, address="192.0.2.1:6379")
        run.folder.mkdir(parents=True)
        run.remember()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--ray", "deployment.yaml"), "that is the deployment file; write it before --ray"),
        (("--ray", "auto", "--events", "e.jsonl"), "--events: on Ray a journal would lie on"),
    ],
)
def test_up_refuses_what_cannot_be_meant(
    arguments: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["up", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_down_wants_to_know_which_of_several(capsys: pytest.CaptureFixture[str]) -> None:
    _remembered("prfaas-1", "prfaas-2")
    assert main(["down"]) == 2
    assert "several run; name one: prfaas-1, prfaas-2" in capsys.readouterr().err
    assert main(["down", "prfaas-3"]) == 2


def test_a_verb_without_a_file_says_that_nothing_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 2
    assert "name a deployment file instead" in capsys.readouterr().err
