"""A run leaves nothing behind: by itself, or at the next start after it was killed."""

import subprocess
import sys
from pathlib import Path

from prfaas.core.deployment import load_deployment
from prfaas.launch.run_directory import RunDirectory, reap
from prfaas.launch.sessions import members, session_of
from prfaas.launch.supervisor import embedded_default

KILLED_RUN = """
import os, pathlib, signal, subprocess, sys
from prfaas.launch.run_directory import RunDirectory
from prfaas.launch.sessions import session_of
run = RunDirectory(pathlib.Path(sys.argv[1]))
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
                         start_new_session=True, stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL)
run.started("engine", session_of(child.pid))
print(child.pid, run.private, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_leftovers_of_a_killed_run_are_ended(tmp_path: Path) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_RUN, str(tmp_path)], capture_output=True, text=True
    )
    pid, sockets = killed.stdout.split()
    session = session_of(int(pid))
    assert session is not None
    assert reap(tmp_path) == ["engine"]
    assert members(session) == []
    assert not Path(sockets).exists()
    assert reap(tmp_path) == []


def test_a_living_run_is_left_alone(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE,
                          start_new_session=True) as child:  # fmt: skip
        session = session_of(child.pid)
        assert session is not None
        run.started("engine", session)
        assert reap(tmp_path) == []
        assert members(session) == [child.pid]
        child.communicate(b"\n")
    run.close()


def test_a_closed_run_keeps_its_logs_only(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.write_deployment(load_deployment(embedded_default()))
    (run.logs / "gateway.log").touch()
    run.close()
    assert sorted(p.name for p in run.path.iterdir()) == ["deployment.json", "lock", "logs"]
    assert not run.private.exists()


def test_a_run_that_started_nothing_leaves_nothing(tmp_path: Path) -> None:
    RunDirectory(tmp_path).close()
    assert list(tmp_path.iterdir()) == []


def test_old_runs_are_forgotten(tmp_path: Path) -> None:
    for number in range(13):
        (tmp_path / f"20260101-0000{number:02d}-1").mkdir()
    reap(tmp_path)
    assert min(p.name for p in tmp_path.iterdir()) == "20260101-000003-1"


def test_the_resolved_deployment_reads_back(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    deployment = load_deployment(embedded_default())
    path = run.write_deployment(deployment)
    assert load_deployment(path) == deployment
    assert path.stat().st_mode & 0o077 == 0
    run.close()
