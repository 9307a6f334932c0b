"""What one `prfaas up` keeps on disk: resolved deployment, logs, and which processes are its own.

    <state home>/prfaas/runs/<time>-<pid>/
        lock              held (flock) while its `prfaas up` lives
        processes.json    sessions it started: whoever finds the lock free ends them
        deployment.json   the deployment with every address filled in
        logs/NAME.log     and the demo's journal.jsonl

Unix sockets and private keys lie in a directory of their own that goes with the run, under TMPDIR
or, where that is too long for the 107 bytes the kernel allows a socket's path, under /tmp.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

import msgspec

from prfaas.core.deployment import Deployment
from prfaas.core.errors import ConfigError
from prfaas.launch.sessions import Session, end_session, members

_KEPT_RUNS = 10
_GUARDIANS_S, _POLL_S = 20.0, 0.1
"""How long a start waits for the guardians of killed runs, all together, and looks how often."""
_LONGEST_TEMPORARY = 107 - len("/prfaas-12345678/") - 63 - len(".events")
"""Bytes; the longest name of a process has 63."""


class _Record(msgspec.Struct):
    """``place``: where the sessions' numbers mean something, see `place`."""

    place: str
    private: str
    sessions: dict[str, Session] = {}


class RunDirectory:
    """Made on construction; `close()` ends the run and leaves only logs and deployment.

    Raises ConfigError where there can be none.
    """

    def __init__(self, home: Path | None = None) -> None:
        runs = home or state_home() / "runs"
        self.path = runs / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        self.logs = self.path / "logs"
        try:
            self.logs.mkdir(parents=True)
        except OSError as error:
            raise ConfigError(
                f"{self.logs}: cannot be made: {error.strerror}; set XDG_STATE_HOME to a directory "
                "that can be written"
            ) from error
        self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.private = Path(tempfile.mkdtemp(prefix="prfaas-", dir=_temporary()))
        self._record = _Record(place(), str(self.private))
        self._write_record()

    def write_deployment(self, deployment: Deployment) -> Path:
        """Write the deployment with every address known; returns its path."""
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
        """End the run. No session of it may be left."""
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
    """Where the product keeps its state, under the user's XDG state directory."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "prfaas"


def _temporary() -> str:
    directory = tempfile.gettempdir()
    return directory if len(os.fsencode(directory)) <= _LONGEST_TEMPORARY else "/tmp"


async def reap(home: Path | None = None) -> list[str]:
    """End what runs whose `prfaas up` is dead have left; returns what there is to tell of it.

    A run that is alive holds its lock and is not touched. Of the ended runs, the newest
    `_KEPT_RUNS` keep their logs.
    """
    runs = home or state_home() / "runs"
    give_up = time.monotonic() + _GUARDIANS_S
    told: list[str] = []
    finished: list[Path] = []
    for path in sorted(p for p in runs.glob("*") if p.is_dir()):
        try:
            lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue  # Another start has just forgotten this run.
        try:
            if await _locked(lock, path, give_up):
                ended = await asyncio.to_thread(reap_run, path)
                told += [f"Ended {name}, left over from a run that was killed." for name in ended]
                finished.append(path)
            elif not _owner_lives(path):
                told.append(f"Left {path} alone: a process that cannot be found holds its lock.")
        finally:
            os.close(lock)
    for path in finished[:-_KEPT_RUNS]:
        shutil.rmtree(path, ignore_errors=True)
    return told


def reap_run(path: Path) -> list[str]:
    """End what one run has left; returns the names of what was ended. With its lock held."""
    record = _read_record(path)
    if record is None:
        return []
    ended = []
    if record.place == place():
        for name, session in record.sessions.items():
            if members(session):
                ended.append(name)
                end_session(session, grace_s=5.0)
    shutil.rmtree(record.private, ignore_errors=True)
    (path / "processes.json").unlink(missing_ok=True)
    return ended


async def _locked(lock: int, path: Path, give_up: float) -> bool:
    """Take the run's lock, if its `prfaas up` is dead. Its guardian may hold it, and end what it
    left: wait for that."""
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if _owner_lives(path) or time.monotonic() > give_up:
                return False
            await asyncio.sleep(_POLL_S)
        else:
            return True


def is_of_here(path: Path) -> bool:
    """Whether the run's processes are of this machine and container, and its owner lives."""
    record = _read_record(path)
    return record is not None and record.place == place() and _owner_lives(path)


def _owner_lives(path: Path) -> bool:
    """Of a run whose lock is held. Another machine's, or container's, is taken to."""
    record = _read_record(path)
    elsewhere = record is not None and record.place != place()
    return elsewhere or Path("/proc", path.name.rpartition("-")[2]).exists()


def _read_record(path: Path) -> _Record | None:
    try:
        return msgspec.json.decode((path / "processes.json").read_bytes(), type=_Record)
    except (OSError, msgspec.DecodeError):
        return None


def place() -> str:
    """Where pids mean something: a machine's boot and its namespace of processes, as two ids."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"
