"""A run leaves nothing behind: by itself, or at the next start after it was killed."""

import asyncio
import fcntl
import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import pytest

from prfaas.core.deployment import load_deployment
from prfaas.core.errors import ConfigError
from prfaas.launch import run_directory
from prfaas.launch.run_directory import RunDirectory, reap
from prfaas.launch.sessions import members, session_of
from prfaas.launch.start import embedded_default

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
    told = asyncio.run(reap(tmp_path))
    assert told == ["Ended engine, left over from a run that was killed."]
    assert members(session) == []
    assert not Path(sockets).exists()
    assert asyncio.run(reap(tmp_path)) == []


def test_a_living_run_is_left_alone(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE,
                          start_new_session=True) as child:  # fmt: skip
        session = session_of(child.pid)
        assert session is not None
        run.started("engine", session)
        assert asyncio.run(reap(tmp_path)) == []
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
    asyncio.run(reap(tmp_path))
    assert min(p.name for p in tmp_path.iterdir()) == "20260101-000003-1"


def test_the_resolved_deployment_reads_back(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    deployment = load_deployment(embedded_default())
    path = run.write_deployment(deployment)
    assert load_deployment(path) == deployment
    assert path.stat().st_mode & 0o077 == 0
    run.close()


def test_what_a_run_writes_is_its_users_alone(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.write_deployment(load_deployment(embedded_default()))
    found = [run.private, *(path for path in run.path.iterdir() if path.is_file())]
    assert len(found) == 4
    assert not any(path.stat().st_mode & 0o077 for path in found)
    run.close()


def _locked_run(home: Path) -> tuple[Path, int]:
    """A run whose lock is held, though no process has the pid of its `prfaas up`."""
    path = home / "20260101-000000-99999999"
    path.mkdir()
    lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return path, lock


async def test_a_lock_whose_holder_cannot_be_found_is_not_waited_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, lock = _locked_run(tmp_path)
    monkeypatch.setattr(run_directory, "_GUARDIANS_S", -1.0)
    assert await reap(tmp_path) == [
        f"Left {path} alone: a process that cannot be found holds its lock."
    ]
    os.close(lock)


async def test_waiting_for_a_lock_can_be_broken_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, lock = _locked_run(tmp_path)
    monkeypatch.setattr(run_directory, "_GUARDIANS_S", math.inf)
    reaping = asyncio.create_task(reap(tmp_path))
    await asyncio.sleep(0)
    reaping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reaping
    os.close(lock)


async def test_a_guardian_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, lock = _locked_run(tmp_path)
    monkeypatch.setattr(run_directory, "_GUARDIANS_S", math.inf)
    monkeypatch.setattr(run_directory, "_POLL_S", 0.0)
    reaping = asyncio.create_task(reap(tmp_path))
    await asyncio.sleep(0)
    assert not reaping.done()
    os.close(lock)
    assert await reaping == []


async def test_a_run_of_another_machine_is_left_alone_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, lock = _locked_run(tmp_path)
    record = run_directory._Record("another boot", "/tmp/prfaas-of-another-machine")
    (path / "processes.json").write_bytes(msgspec.json.encode(record))
    monkeypatch.setattr(run_directory, "_GUARDIANS_S", math.inf)
    assert await reap(tmp_path) == []
    assert (path / "processes.json").exists()
    os.close(lock)


async def test_a_run_that_another_start_forgets_meanwhile_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "20260101-000000-1", tmp_path / "20260101-000001-1"
    first.mkdir()
    second.mkdir()

    def forget_second(path: Path) -> list[str]:
        shutil.rmtree(second)
        return []

    monkeypatch.setattr(run_directory, "reap_run", forget_second)
    assert await reap(tmp_path) == []


def test_a_temporary_directory_too_long_for_sockets_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    run = RunDirectory(tmp_path / "runs")
    assert run.private.parent == Path("/tmp")
    run.close()


def test_a_home_that_cannot_be_is_an_error() -> None:
    with pytest.raises(ConfigError, match="Not a directory; set XDG_STATE_HOME"):
        RunDirectory(Path("/dev/null/runs"))
