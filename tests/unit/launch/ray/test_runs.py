"""What was put on Ray from here is known until it is ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from prfaas.launch.ray.runs import RayRun, remembered


def test_runs_are_remembered_and_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert remembered() == []
    runs = [RayRun(space=f"prfaas-2026-{n}", address="10.0.0.1:6379") for n in range(2)]
    for run in runs:
        run.folder.mkdir(parents=True)
        run.remember()
    (tmp_path / "prfaas/ray/prfaas-broken").mkdir()
    (tmp_path / "prfaas/ray/prfaas-broken/run.json").write_text("{")
    assert remembered() == runs
    runs[0].forget()
    assert remembered() == runs[1:]
