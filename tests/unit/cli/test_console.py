"""Progress that begins when somebody would wonder."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import threading
from pathlib import Path
from typing import ClassVar

import pytest
from rich.console import Group
from rich.table import Table
from rich.text import Text

from prfaas.cli import console, main, schema
from prfaas.cli.console import progress_after, report_console
from prfaas.core.errors import CallerError

PAPER = str(Path(__file__).resolve().parents[3] / "examples" / "paper.yaml")


class Timer:
    """A timer that fires when the test says so."""

    made: ClassVar[list[Timer]] = []

    def __init__(self, seconds: float, function: object) -> None:
        self.seconds, self.fire, self.daemon = seconds, function, False
        self.cancelled = False
        self.made.append(self)

    def start(self) -> None: ...

    def cancel(self) -> None:
        self.cancelled = True


@pytest.fixture
def timer(monkeypatch: pytest.MonkeyPatch) -> type[Timer]:
    monkeypatch.setattr(Timer, "made", [])
    monkeypatch.setattr(console.threading, "Timer", Timer)
    return Timer


def test_what_is_quick_says_nothing(timer: type[Timer], capsys: pytest.CaptureFixture[str]) -> None:
    with progress_after(2.0, "planning") as step:
        step("one")
    [made] = timer.made
    assert made.seconds == 2.0
    assert made.cancelled
    made.fire()  # type: ignore[operator]
    assert capsys.readouterr().err == ""


def test_after_the_silence_the_step_under_way_and_all_later_ones_are_shown(
    timer: type[Timer], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_after(2.0, "planning") as step:
        step("one")
        step("two")
        late = threading.Thread(target=timer.made[0].fire)  # type: ignore[arg-type]
        late.start()
        late.join()
        step("three")
    assert capsys.readouterr().err.splitlines() == ["planning: two ...", "planning: three ..."]


def test_a_narrow_terminal_cuts_no_figure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "16")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    table = Table("tokens", "bytes")
    table.add_row("1,234,567,890", "9,876,543,210")
    report_console().print(table)
    shown = re.sub(r"\x1b\[\d+m", "", capsys.readouterr().out)
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown
    assert sum(map(str.isdigit, shown)) == 20


@pytest.mark.parametrize(
    "words", [["kv", "--list"], ["plan", PAPER], ["simulate", PAPER, "--requests", "50"]]
)
def test_a_reader_that_has_enough_is_no_failure(words: list[str]) -> None:
    command = shlex.join([sys.executable, "-m", "prfaas.cli.main", *words])
    ended = subprocess.run(
        ["bash", "-c", f"{command} | true; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True
    )
    assert (ended.returncode, "Broken" in ended.stderr) == (0, False), ended.stderr


@pytest.mark.parametrize("terminal", [True, False])
def test_nothing_that_is_shown_says_anything_to_the_terminal(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Engines quote what clients have sent; agents and gateways say what they like."""
    evil = "\x1b]0;all is well\x07\x1b[2J\x9b31m\rno trouble"
    table = Table("what", evil)
    table.add_row("d1", evil)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    shows = report_console()
    for shown in (evil, Text(evil, "bold red"), table, Group(Text(evil), "two\nlines")):
        shows.print(shown, highlight=False, markup=False)
    out = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert "\\x1b]0;all is well" in out
    assert "two\nlines" in out
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", out)


def test_nor_does_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_: object) -> int:
        raise CallerError("a gateway says:\n\x1b[2J")

    monkeypatch.setattr(schema, "run", run)
    assert main.main(["schema"]) == 2
    assert capsys.readouterr().err == "prfaas schema: a gateway says:\n\\x1b[2J\n"
