"""A guardian waits for the run's own process, then ends what it left."""

import subprocess
import sys
from pathlib import Path

from prfaas.launch.guardian import guard, main
from prfaas.launch.sessions import members, session_of

RUN = """
import pathlib, subprocess, sys
from prfaas.launch.run_directory import RunDirectory
from prfaas.launch.sessions import session_of
run = RunDirectory(pathlib.Path(sys.argv[1]))
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
                         start_new_session=True, stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL)
run.started("engine", session_of(child.pid))
print(child.pid, run.path, flush=True)
if input() == "close":
    child.kill()
    child.wait()
    run.ended("engine")
    run.close()
"""


def started(home: Path) -> tuple[subprocess.Popen[str], int, Path]:
    """A run with one child in a session of its own: its process, the child's id, its directory."""
    run = subprocess.Popen(
        [sys.executable, "-c", RUN, str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    pid, path = run.stdout.readline().split()
    return run, int(pid), Path(path)


def test_what_a_killed_run_leaves_is_ended_at_once(tmp_path: Path) -> None:
    run, pid, path = started(tmp_path)
    session = session_of(pid)
    assert session is not None
    with guard(path) as guardian:
        assert members(session) == [pid]
        run.kill()
        run.communicate()
        assert guardian.wait() == 0
    assert members(session) == []


def test_a_run_that_closed_leaves_a_guardian_nothing_to_do(tmp_path: Path) -> None:
    run, _, path = started(tmp_path)
    with guard(path) as guardian:
        run.communicate("close\n")
        assert guardian.wait() == 0


def test_a_run_that_is_gone_is_no_error(tmp_path: Path) -> None:
    main(tmp_path / "gone")
