"""What one `prfaas up` keeps on disk: resolved deployment, logs, and which processes are its own.

    <state home>/prfaas/runs/<time>-<pid>/
        lock              held (flock) while its `prfaas up` lives
        processes.json    sessions it started: whoever finds the lock free ends them
        deployment.json   the deployment with every address filled in
        logs/NAME.log

Unix sockets and private keys lie in a directory of their own that goes with the run; its path is
short, because the kernel allows a socket's 107 bytes.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

import msgspec

from prfaas.core.deployment import Deployment
from prfaas.launch.sessions import Session, end_session, members

_KEPT_RUNS = 10


class _Record(msgspec.Struct):
    boot: str
    private: str
    sessions: dict[str, Session] = {}


class RunDirectory:
    """Made on construction; `close()` ends the run and leaves only logs and deployment."""

    def __init__(self, home: Path | None = None) -> None:
        runs = home or state_home() / "runs"
        self.path = runs / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        self.logs = self.path / "logs"
        self.logs.mkdir(parents=True)
        self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.private = Path(tempfile.mkdtemp(prefix="prfaas-"))
        self._record = _Record(_boot_id(), str(self.private))
        self._write_record()

    def write_deployment(self, deployment: Deployment) -> Path:
        return self._write("deployment.json", msgspec.json.format(msgspec.json.encode(deployment)))

    def started(self, name: str, session: Session) -> None:
        """Remember a session before anything else happens to it."""
        self._record.sessions[name] = session
        self._write_record()

    def ended(self, name: str) -> None:
        """The session has no process left."""
        self._record.sessions.pop(name, None)
        self._write_record()

    def close(self) -> None:
        shutil.rmtree(self.private, ignore_errors=True)
        (self.path / "processes.json").unlink(missing_ok=True)
        if not any(self.logs.iterdir()):
            shutil.rmtree(self.path)  # Nothing was started: nothing to read later.
        os.close(self._lock)

    def _write_record(self) -> None:
        self._write("processes.json", msgspec.json.encode(self._record))

    def _write(self, name: str, content: bytes) -> Path:
        """All of it at once, and for the owner only: a deployment may hold API keys."""
        scratch = self.path / f"{name}.tmp"
        scratch.touch(mode=0o600)
        scratch.write_bytes(content)
        return scratch.rename(self.path / name)


def state_home() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "prfaas"


def reap(home: Path | None = None) -> list[str]:
    """End what runs whose `prfaas up` is dead have left; returns what was ended, by name.

    A run that is alive holds its lock and is not touched. Of the ended runs, the newest
    `_KEPT_RUNS` keep their logs.
    """
    runs = home or state_home() / "runs"
    ended: list[str] = []
    finished: list[Path] = []
    for path in sorted(p for p in runs.glob("*") if p.is_dir()):
        lock = _try_lock(path)
        if lock is None:
            continue
        ended += reap_run(path)
        finished.append(path)
        os.close(lock)
    for path in finished[:-_KEPT_RUNS]:
        shutil.rmtree(path, ignore_errors=True)
    return ended


def reap_run(path: Path) -> list[str]:
    """End what one run has left. With its lock held."""
    file = path / "processes.json"
    try:
        record = msgspec.json.decode(file.read_bytes(), type=_Record)
    except (OSError, msgspec.DecodeError):
        return []
    ended = []
    if record.boot == _boot_id():
        for name, session in record.sessions.items():
            if members(session):
                ended.append(name)
                end_session(session, grace_s=5.0)
    shutil.rmtree(record.private, ignore_errors=True)
    file.unlink(missing_ok=True)
    return ended


def _try_lock(path: Path) -> int | None:
    """A descriptor that holds the run's lock, or None where its `prfaas up` does."""
    lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if _owner_lives(path):
            os.close(lock)
            return None
        fcntl.flock(lock, fcntl.LOCK_EX)  # Its guardian is ending what it left: wait for that.
    return lock


def _owner_lives(path: Path) -> bool:
    return Path("/proc", path.name.rpartition("-")[2]).exists()


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
