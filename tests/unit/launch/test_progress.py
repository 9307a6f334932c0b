"""What is shown while a deployment starts: a line per change where nobody watches a terminal."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from prfaas.launch.child import Child, ChildState
from prfaas.launch.commands import Command
from prfaas.launch.progress import StartProgress
from prfaas.launch.run_directory import RunDirectory


def shown(tmp_path: Path, *, terminal: bool) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100)
    run = RunDirectory(tmp_path)
    with StartProgress(console) as progress:
        command = Command(("true",), {})
        child = Child("gateway", command, probe="", run=run, changed=progress.changed)
        child.state = ChildState.STARTING
        child.explain("decode engine [d1] is down")
        child.state, child.missing, child.starts = ChildState.READY, "", 2
        progress.changed(child)
    run.close()
    return out.getvalue()


def test_a_pipe_gets_a_line_per_change(tmp_path: Path) -> None:
    first, second = shown(tmp_path, terminal=False).splitlines()
    assert first.endswith("gateway: starting: decode engine [d1] is down")
    assert second.endswith("gateway: ready (start 2)")


def test_a_terminal_gets_a_table(tmp_path: Path) -> None:
    table = shown(tmp_path, terminal=True)
    assert "gateway" in table
    assert "ready" in table
    assert "(start 2)" not in table


def test_what_was_never_started_is_not_said_to_have_ended(tmp_path: Path) -> None:
    out, run = io.StringIO(), RunDirectory(tmp_path)
    with StartProgress(Console(file=out)) as progress:
        child = Child("engine", Command(("true",), {}), probe="", run=run, changed=progress.changed)
        child.state = ChildState.ENDED
        progress.changed(child)
    run.close()
    assert out.getvalue() == ""
