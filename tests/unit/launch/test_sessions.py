"""Whole sessions end: the process itself, what it started, and what ignores the asking."""

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from prfaas.launch.sessions import Session, end_session, members, session_of

TREE = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import signal, time;"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"],
    stdout=subprocess.PIPE)
child.stdout.readline()
print("up", flush=True)
child.wait()
"""


SHARING = """
import mmap, os, sys, time
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, int(sys.argv[2], 8))
os.ftruncate(file, 4096)
shared = mmap.mmap(file, 4096)
print("up", flush=True)
time.sleep(600)
"""


def _tree(program: str = TREE, *arguments: str) -> tuple[subprocess.Popen[bytes], Session]:
    leader = subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, start_new_session=True
    )
    assert leader.stdout is not None
    assert leader.stdout.readline() == b"up\n"
    session = session_of(leader.pid)
    assert session is not None
    return leader, session


def test_a_stubborn_grandchild_is_ended_with_its_session() -> None:
    leader, session = _tree()
    with leader:
        assert len(members(session)) == 2
        end_session(session, grace_s=0.2)
        assert members(session) == []


def test_descendants_of_a_killed_leader_are_found() -> None:
    leader, session = _tree()
    with leader:
        leader.kill()
        leader.wait()
        assert len(members(session)) == 1
        end_session(session, grace_s=0.2)
        assert members(session) == []


@pytest.mark.parametrize("name", ["psm_{}", "sem.mp-{}", "29500{}-tp:0-[0-1]-cpushm_1"])
def test_shared_memory_goes_with_the_last_that_maps_it(name: str) -> None:
    path = Path("/dev/shm") / name.format(uuid.uuid4().hex[:8])
    try:
        (first, one), (second, two) = (_tree(SHARING, str(path), "600") for _ in range(2))
        with first, second:
            end_session(one, grace_s=5.0)
            assert path.exists()
            end_session(two, grace_s=5.0)
            assert not path.exists()
    finally:
        path.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("name", "mode"),
    [("{}.safetensors", "600"), ("vllm_{}", "600"), ("{0}/psm_{0}", "600"), ("psm_{}", "644")],
)
def test_a_file_that_may_be_somebody_elses_stays(name: str, mode: str) -> None:
    unique = uuid.uuid4().hex[:8]
    path = Path("/dev/shm") / name.format(unique)
    if path.parent.name == unique:
        path.parent.mkdir()
    try:
        leader, session = _tree(SHARING, str(path), mode)
        with leader:
            end_session(session, grace_s=5.0)
            assert path.exists()
    finally:
        path.unlink(missing_ok=True)
        if path.parent.name == unique:
            path.parent.rmdir()


def test_a_process_that_got_the_same_number_later_is_not_touched() -> None:
    mine = session_of(os.getpid())
    assert mine is not None
    earlier = Session(mine.leader, mine.started_ticks - 1)
    end_session(earlier, grace_s=0.0)  # Would end this very test run.


def test_no_session_of_a_process_that_is_gone() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert session_of(gone.pid) is None
