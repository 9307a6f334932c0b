"""Whether a directory can be an agent's on disk, and that no other agent has it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from pathlib import Path

from prfaas.core.errors import ConfigError

LOCK, UNFINISHED = "lock", ".part"
_MEMORY = frozenset({"tmpfs", "ramfs", "hugetlbfs", "devtmpfs"})


def file_system(path: Path) -> str:
    """What kind a directory is on; empty where that is not known."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            if before.split()[2:3] == [wanted]:
                return after.split()[0]
    return ""


def open_directory(path: Path) -> int:
    """A descriptor of it. Raises ConfigError where it is not this user's alone, or no disk's."""
    try:
        if not path.is_absolute():
            raise ConfigError(f"spill: path {path}: give an absolute path")
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        kind = file_system(path)
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"spill: path {path}: {error.strerror}") from error
    try:
        _check_directory(path, directory, kind)
    except BaseException:
        os.close(directory)
        raise
    return directory


def _check_directory(path: Path, directory: int, kind: str) -> None:
    found = os.fstat(directory)
    if kind in _MEMORY:
        raise ConfigError(
            f"spill: path {path} is on {kind}, which is memory: name a directory on a disk, or "
            "make the agent's arena larger"
        )
    if found.st_uid != os.geteuid():
        raise ConfigError(
            f"spill: path {path} belongs to user {found.st_uid}, the agent is {os.geteuid()}: "
            "give it a directory of its own"
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise ConfigError(
            f"spill: path {path} is open to other users, and prompts' KV will lie there: "
            f"chmod 700 {path}"
        )


def lock(path: Path, directory: int) -> int:
    """A descriptor that holds it. Raises ConfigError where another agent does, or it cannot be
    written."""
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        file = os.open(LOCK, flags, 0o600, dir_fd=directory)
    except OSError as error:
        raise ConfigError(f"spill: path {path} cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        raise ConfigError(
            f"spill: path {path} is in use by another agent: give each a directory of its own"
        ) from error
    return file


def can_be_direct(directory: int) -> bool:
    """Whether its files can be read and written past the page cache."""
    name = LOCK + UNFINISHED
    flags = os.O_RDWR | os.O_CREAT | os.O_DIRECT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        os.close(os.open(name, flags, 0o600, dir_fd=directory))
    except OSError:
        return False
    finally:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=directory)
    return True
