"""Which `prfaas up` run on this machine now, and how to end them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from pathlib import Path

import msgspec

from prfaas.core.errors import ConfigError
from prfaas.launch.run_directory import is_of_here, state_home

_POLL_S = 0.1


class Run(msgspec.Struct, frozen=True):
    """A living `prfaas up` of this user: ``name`` is its directory's, ``pid`` its process."""

    name: str
    pid: int
    path: str

    @property
    def deployment_file(self) -> Path:
        """The deployment with every address filled in; there once its processes are started."""
        return Path(self.path) / "deployment.json"

    def readable_file(self) -> Path:
        """That file. Raises ConfigError where the run has only just begun."""
        if not self.deployment_file.exists():
            raise ConfigError(f"{self.name} is still starting; ask again in a moment")
        return self.deployment_file


def running(home: Path | None = None) -> list[Run]:
    """Runs whose `prfaas up` lives in this machine (or container), oldest first."""
    runs = home or state_home() / "runs"
    found = []
    for path in sorted(p for p in runs.glob("*") if p.is_dir()):
        pid = path.name.rpartition("-")[2]
        if pid.isdigit() and not _lock_is_free(path) and is_of_here(path):
            found.append(Run(path.name, int(pid), str(path)))
    return found


def the_running(name: str | None = None, home: Path | None = None) -> Run:
    """The run called ``name``, or the only one. Raises ConfigError that says what there is."""
    runs = running(home)
    chosen = [run for run in runs if name in (None, run.name)]
    if len(chosen) == 1:
        return chosen[0]
    if not runs:
        raise ConfigError("no 'prfaas up' runs on this machine; name a deployment file instead")
    names = ", ".join(run.name for run in runs)
    raise ConfigError(f"{'several run' if name is None else f'no run {name!r}'}; name one: {names}")


def end(run: Run, *, timeout_s: float) -> bool:
    """Ask a run to end and wait until all its processes are gone; False where they are not after
    ``timeout_s``."""
    give_up = time.monotonic() + timeout_s
    with contextlib.suppress(ProcessLookupError):  # It may have ended by itself.
        os.kill(run.pid, signal.SIGINT)
    while not _lock_is_free(Path(run.path)):
        if time.monotonic() > give_up:
            return False
        time.sleep(_POLL_S)
    return True


def _lock_is_free(path: Path) -> bool:
    """Whether the run of this directory has ended; True for a directory that is gone."""
    try:
        lock = os.open(path / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True
