"""The journal's file: appended to, never waited for."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from prfaas.core.errors import ConfigError
from prfaas.gateway.journal_file import JournalFile
from prfaas.scheduler.events import EngineUp
from prfaas.scheduler.journal import LinesLost
from prfaas.scheduler.replay import read_journal


def test_a_full_disk_loses_lines_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    journal = JournalFile(Path("/dev/full"))
    for at in range(3):
        journal.write(at, EngineUp("e"))
    journal.close()
    assert caplog.messages == ["journal /dev/full loses lines: No space left on device"]


def test_a_pipe_that_nobody_reads_loses_lines_and_is_not_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    journal, reader = JournalFile(pipe), os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
    for at in range(400):
        journal.write(at, EngineUp("e" * 100))
    assert caplog.messages == [f"journal {pipe} loses lines: it took only part of a line"]
    os.read(reader, 65536)
    journal.write(400, EngineUp("last"))
    assert LinesLost.__name__.encode() in os.read(reader, 65536)
    journal.close()
    os.close(reader)


class ShortFile:
    """A disk that fills up in the middle of a line, and is emptied after two writes."""

    name = "short"

    def __init__(self) -> None:
        self.held = b""
        self.writes = 0

    def write(self, data: bytes) -> int:
        self.writes += 1
        taken = data if self.writes > 2 else data[: 20 if self.writes == 1 else 0]
        self.held += taken
        return len(taken)


def test_where_writing_goes_on_it_says_how_many_lines_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    journal = JournalFile(path)
    journal.close()
    file = ShortFile()
    journal._file = file  # type: ignore[assignment]
    journal.write(1.0, EngineUp("a"), EngineUp("b"))
    journal.write(2.0, EngineUp("c"))
    journal.write(3.0, EngineUp("d"))
    lines = file.held.splitlines(keepends=True)
    assert lines[0] == b'{"at":1.0,"type":"En\n'
    assert list(read_journal(lines)) == [(3.0, LinesLost(3)), (3.0, EngineUp("d"))]


@pytest.mark.parametrize("torn", ["", '{"at":'])
def test_a_second_run_appends(torn: str, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(torn)
    for at in (1.0, 2.0):
        journal = JournalFile(path)
        journal.write(at, LinesLost(1))
        journal.close()
    assert [at for at, _ in read_journal(path.read_bytes().splitlines(True))] == [1.0, 2.0]


def test_a_file_that_cannot_be_opened_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--events .*Is a directory"):
        JournalFile(tmp_path)


def test_other_users_do_not_read_it(tmp_path: Path) -> None:
    """An engine's words stand in it, which may quote a prompt."""
    path, before = tmp_path / "events.jsonl", os.umask(0)
    try:
        JournalFile(path).close()
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)  # Somebody else is to read it.
    JournalFile(path).close()
    assert path.stat().st_mode & 0o777 == 0o640
