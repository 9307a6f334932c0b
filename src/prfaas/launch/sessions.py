"""Process sessions, as Linux tells them in /proc: who belongs to one, and how to end all of it.

Every process we start leads a session of its own, so its session id finds all its descendants,
even after it is gone. A start time in boot clock ticks tells a process from a later one that got
its number.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

_PR_SET_PDEATHSIG = 1
_TRACKER = b"multiprocessing.resource_tracker"
_TRACKER_GRACE_S = 10.0
_POLL_S = 0.05
_NAMES = (
    r"psm_[0-9a-f]{8}|sem\.mp-\w{8}",  # Python's multiprocessing
    r"torch_\d+_\d+_\d+|nccl-\w{6}",
    r"vllm_(?:offload|ec)_[^/\s]+\.mmap|VLLM_OBJECT_STORAGE_SHM_BUFFER_[^/\s]+",
    r"[^/\s]+-cpushm_\d+",  # vLLM's tensor-parallel ranks on the CPU
)
"""What engines make in /dev/shm and name themselves. Any other file there is somebody's own."""
_MAPPED = re.compile(rf"^(?:\S+ +){{5}}(/dev/shm/(?:{'|'.join(_NAMES)}))$", re.MULTILINE)


class Session(msgspec.Struct, frozen=True):
    """``leader`` is the pid of the process we started, and the session's id."""

    leader: int
    started_ticks: int


def tied_to_parent() -> Callable[[], None]:
    """For ``preexec_fn``: the child gets SIGTERM when its parent dies, however that happens."""
    parent = os.getpid()
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # It died before we were tied.
            os._exit(1)

    return tie


def session_of(leader: int) -> Session | None:
    """The session of a process that just started; None if it is gone already."""
    stat = _stat(leader)
    return None if stat is None else Session(leader, stat[1])


def members(session: Session) -> list[int]:
    """Pids of the session's living processes."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (stat := _stat(int(entry))) is not None:
            sid, started_ticks, state = stat
            if sid == session.leader and started_ticks >= session.started_ticks and state != "Z":
                found.append(int(entry))
    return found


def end_session(session: Session, *, grace_s: float) -> None:
    """Ask every process of the session to end, and kill what has not after ``grace_s``.

    Python's resource trackers are left to the last: they ignore the asking, and unlink the shared
    memory of killed processes once those are gone. What else engines share among themselves, and
    nobody maps any more (vLLM's tensor-parallel ranks on the CPU leave theirs even in peace), is
    unlinked here.
    """
    leader = _stat(session.leader)
    if leader is not None and leader[1] != session.started_ticks:
        return  # The number belongs to somebody else now: nothing of ours can be left.
    shared = _shared_memory(members(session))
    _signal(members(session), signal.SIGTERM)
    _wait_gone(session, grace_s)
    _signal([pid for pid in members(session) if not is_tracker(pid)], signal.SIGKILL)
    _wait_gone(session, _TRACKER_GRACE_S)
    _signal(members(session), signal.SIGKILL)
    if shared:
        everybody = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
        for path in shared - _shared_memory(everybody):
            _unlink_private(path)


def _shared_memory(pids: list[int]) -> set[Path]:
    """Files that engines share among themselves and any of the processes maps."""
    found = set()
    for pid in pids:
        try:
            maps = Path(f"/proc/{pid}/maps").read_text(errors="replace")
        except OSError:
            continue  # It has just ended, or is not ours: see _unlink_private.
        found |= {Path(name) for name in _MAPPED.findall(maps)}
    return found


def _unlink_private(path: Path) -> None:
    """Unlink a file that only our user may open: nobody whose maps we cannot read has it in use."""
    with contextlib.suppress(OSError):
        file = path.lstat()
        if file.st_uid == os.geteuid() and not file.st_mode & 0o077:
            path.unlink()


def _wait_gone(session: Session, timeout_s: float) -> None:
    give_up = time.monotonic() + timeout_s
    while members(session) and time.monotonic() < give_up:
        time.sleep(_POLL_S)


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def is_tracker(pid: int) -> bool:
    """Whether it is one of Python's multiprocessing resource trackers."""
    try:
        return _TRACKER in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _stat(pid: int) -> tuple[int, int, str] | None:
    """(session id, start time in ticks since boot, state), or None if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()  # The name in front may hold anything.
    return int(fields[3]), int(fields[19]), fields[0]
