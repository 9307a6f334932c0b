"""A file is taken over when it is asked for or has come to rest, and a bad one changes nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from prfaas.core.errors import ConfigError
from prfaas.process.reloading import Reloading


class Watched:
    """Takes any text but "bad" and "our fault"."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("prfaas.process.reloading._LOOK_S", 0.01)
        self.path, self.taken, self.ends = path, [path.read_text()], asyncio.Queue[str]()
        self.asked = asyncio.Event()
        self.reloading = Reloading(path, self._take, asked=self.asked, on_end=self.ends.put_nowait)

    def _take(self) -> None:
        text = self.path.read_text()
        if text == "bad":
            raise ConfigError("it is bad")
        if text == "our fault":
            raise KeyError(text)
        self.taken.append(text)

    async def end(self) -> str:
        async with asyncio.timeout(60):
            return await self.ends.get()


async def test_a_changed_file_is_read_once_and_a_bad_one_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("one")
    watched = Watched(path, monkeypatch)
    running = asyncio.create_task(watched.reloading.run())
    path.write_text("two")
    assert await watched.end() == "taken"
    path.write_text("bad")
    assert await watched.end() == "refused"
    path.write_text("our fault")
    assert await watched.end() == "refused"
    path.unlink()
    watched.asked.set()
    assert await watched.end() == "refused"
    (tmp_path / "new").write_text("three")
    (tmp_path / "new").rename(path)
    assert await watched.end() == "taken"
    watched.asked.set()
    assert await watched.end() == "taken"
    running.cancel()
    assert watched.taken == ["one", "two", "three", "three"]
    assert watched.ends.empty()


async def test_what_it_names_is_read_while_the_file_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prfaas.process.reloading._LOOK_S", 0.01)
    path, keys, ends = tmp_path / "file", tmp_path / "keys", asyncio.Queue[str]()
    path.write_text("one")
    keys.write_text("a-key")
    reloading = Reloading(
        path,
        lambda: None,
        asked=asyncio.Event(),
        beside=lambda: [keys],
        on_end=ends.put_nowait,
    )
    running = asyncio.create_task(reloading.run())
    path.unlink()
    await asyncio.sleep(0.1)
    assert ends.empty()
    keys.write_text("another-key")
    async with asyncio.timeout(60):
        assert await ends.get() == "taken"
    await asyncio.sleep(0.1)
    assert ends.empty()
    running.cancel()


async def test_what_was_being_written_when_it_was_first_named_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody had looked at it before: half of a list was believed until the next one came."""
    monkeypatch.setattr("prfaas.process.reloading._LOOK_S", 0.01)
    path, named, read, ends = tmp_path / "file", list[Path](), list[str](), asyncio.Queue[str]()
    path.write_text("one")
    revoked = tmp_path / "list"
    revoked.write_text("half")

    def take() -> None:
        named[:] = [revoked]
        read.append(revoked.read_text())
        if read == ["half"]:
            revoked.write_text("a whole one")

    reloading = Reloading(
        path, take, asked=asyncio.Event(), beside=lambda: named, on_end=ends.put_nowait
    )
    running = asyncio.create_task(reloading.run())
    path.write_text("two")
    async with asyncio.timeout(60):
        assert [await ends.get() for _ in range(2)] == ["taken"] * 2
    await asyncio.sleep(0.1)
    running.cancel()
    assert read == ["half", "a whole one"]
