"""A short chaos campaign, and some that have to fail. ``make chaos`` runs longer ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

SEED = "18"


def campaign(*args: str) -> tuple[int, str, dict[str, Any]]:
    """Its exit status, what it said, and its summary."""
    script = str(Path(__file__).parent / "campaign.py")
    command = [sys.executable, script, "--seed", SEED, *args]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=1000, check=False)
    assert "{" in ran.stdout, ran.stdout + ran.stderr
    summary = ran.stdout[ran.stdout.index("\n{") :].partition("\nfiles of the run")[0]
    return ran.returncode, ran.stdout + ran.stderr, json.loads(summary)


def test_faults_lose_nothing_and_leave_nothing() -> None:
    status, said, summary = campaign("--rounds", "6", "--at-once", "3")
    print(said)
    assert said.startswith(f"seed {SEED}; again: ")
    assert status == 0, said
    assert summary["kinds"] >= 12
    assert summary["ended"]["right"] > 50


@pytest.mark.parametrize(
    ("control", "noticed"),
    [("engine-lies", "was wrong"), ("full-for-ever", "when all was whole again, was refused")],
)
def test_what_no_fleet_can_stand_is_noticed(control: str, noticed: str) -> None:
    status, said, summary = campaign("--rounds", "1", "--control", control)
    assert status == 1, said
    assert any(noticed in told for told in summary["broken"]), said
