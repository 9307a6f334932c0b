"""Files of kept prefixes: what is read back is what was written, or nothing is."""

from __future__ import annotations

import errno
import os
import random
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from prfaas.agent import spill_directory, spill_files
from prfaas.agent.spill_directory import file_system
from prfaas.agent.spill_files import SpillFiles, is_full
from prfaas.core.errors import ConfigError
from prfaas.core.extents import Extent
from prfaas.core.prefixes import Prefix
from prfaas.link.api import TransferKey
from prfaas.pool.kept import KeptPrefix
from prfaas.pool.spill_format import ALIGN, CHUNK_BYTES, VERSION, SpillFault, file_bytes

KEY = "0123456789abcdef"
SLOT = 1 << 20
ARENA = 24 * SLOT


@pytest.fixture(autouse=True)
def any_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests may run where even /tmp is memory."""
    monkeypatch.setattr(spill_directory, "file_system", lambda path: "ext4")


@pytest.fixture(params=[True, False], ids=["direct", "buffered"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SpillFiles]:
    made = opened(tmp_path / "spill", direct=request.param)
    yield made
    made.close()


def opened(path: Path, *, direct: bool = True, key_id: str = KEY) -> SpillFiles:
    import mmap

    arena = memoryview(mmap.mmap(-1, ARENA))
    arena[:] = random.Random(1).randbytes(ARENA)
    return SpillFiles(path, key_id=key_id, arena=arena, direct=direct)


def kept(name: str = "t1", size: int = 100, blocks: int = 2) -> KeptPrefix:
    digests = tuple(bytes([n]) * 16 for n in range(blocks))
    prefix = Prefix(16, 0, b"p" * 16, digests, b"k" * 16 * blocks)
    return KeptPrefix(TransferKey(name, 0, 7), "layout", prefix, 16 * blocks, size, 0, False)


def scattered(size: int) -> list[Extent]:
    """The bytes as they may lie after a local hand-off: in pieces of any length, backwards."""
    extents, flat, at = [], 0, ARENA
    rng = random.Random(size)
    while flat < size:
        length = min(size - flat, rng.choice([1, 4095, 4096, SLOT // 2 + 3, SLOT]))
        at -= length + rng.choice([0, 0, 5])
        extents.append(Extent(flat, at, length))
        flat += length
    return extents


def in_slots(size: int) -> list[Extent]:
    """Whole slots, the way `ReadSpilled` has them; not one behind the other."""
    slots = list(range(-(-size // SLOT)))[::-1]
    return [
        Extent(n * SLOT, slot * SLOT, min(SLOT, size - n * SLOT)) for n, slot in enumerate(slots)
    ]


def bytes_at(files: SpillFiles, extents: list[Extent]) -> bytes:
    return b"".join(bytes(files._arena[e.arena_offset : e.arena_end]) for e in extents)


@pytest.mark.parametrize(
    "size", [1, ALIGN, ALIGN + 1, CHUNK_BYTES - 1, CHUNK_BYTES, 2 * CHUNK_BYTES + 12345]
)
def test_what_is_written_is_read_back(files: SpillFiles, tmp_path: Path, size: int) -> None:
    what = kept(size=size)
    source = scattered(size)
    wanted = bytes_at(files, source)
    files.write(what, source)
    (file,) = (tmp_path / "spill").glob("*.kv")
    assert file.stat().st_size == file_bytes(what)
    files._arena[:] = bytes(ARENA)
    files.read(what, in_slots(size))
    assert bytes_at(files, in_slots(size)) == wanted
    assert list(files.found()) == [what]
    files.drop(what.key)
    files.drop(what.key)
    assert list(files.found()) == []


def test_files_are_their_owners_alone(files: SpillFiles, tmp_path: Path) -> None:
    files.write(kept(), scattered(100))
    assert stat.S_IMODE((tmp_path / "spill").stat().st_mode) == 0o700
    for file in (tmp_path / "spill").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_one_used_last_is_found_last(files: SpillFiles, tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b", "c")):
        files.write(kept(name), scattered(100))
        os.utime(tmp_path / "spill" / f"{name}.0.7.kv", ns=(number, number))
    files.read(kept("a"), in_slots(100))
    assert [what.key.transfer_id for what in files.found()] == ["b", "c", "a"]


@pytest.mark.parametrize("where", ["head", "first", "middle", "last"])
def test_a_flipped_bit_is_found(files: SpillFiles, tmp_path: Path, where: str) -> None:
    size = CHUNK_BYTES + 1000
    what = kept(size=size)
    files.write(what, scattered(size))
    (file,) = (tmp_path / "spill").glob("*.kv")
    begins = file_bytes(what) - (CHUNK_BYTES + ALIGN)
    at = {"head": 40, "first": begins, "middle": begins + CHUNK_BYTES, "last": begins + size - 1}
    with file.open("r+b") as raw:
        raw.seek(at[where])
        (byte,) = raw.read(1)
        raw.seek(at[where])
        raw.write(bytes([byte ^ 4]))
    with pytest.raises(SpillFault, match=r"damaged|not those"):
        files.read(what, in_slots(size))
    assert len(list(files.found())) == (where != "head")


@pytest.mark.parametrize("left", [0, 10, ALIGN - 1, ALIGN, 3 * ALIGN])
def test_a_torn_file_is_dropped(files: SpillFiles, tmp_path: Path, left: int) -> None:
    what = kept(size=20_000)
    files.write(what, scattered(20_000))
    (file,) = (tmp_path / "spill").glob("*.kv")
    os.truncate(file, left)
    with pytest.raises(SpillFault, match=r"cut off|not written"):
        files.read(what, in_slots(20_000))
    assert list(files.found()) == []
    assert not file.exists()


def test_a_file_that_was_extended_but_not_written_is_dropped(
    files: SpillFiles, tmp_path: Path
) -> None:
    """As after a power failure: its size is known, its head is zeros."""
    files.write(kept(), scattered(100))
    (file,) = (tmp_path / "spill").glob("*.kv")
    file.write_bytes(bytes(file.stat().st_size))
    assert list(files.found()) == []
    assert not file.exists()


def test_an_unfinished_file_of_an_earlier_life_is_removed(
    files: SpillFiles, tmp_path: Path
) -> None:
    part = tmp_path / "spill" / "t9.0.1.kv.part"
    part.write_bytes(b"half")
    assert list(files.found()) == []
    assert not part.exists()


def test_another_release_is_dropped_and_strangers_are_left_alone(
    files: SpillFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files.write(kept(), scattered(100))
    (file,) = (tmp_path / "spill").glob("*.kv")
    raw = bytearray(file.read_bytes())
    raw[8] = VERSION + 1
    file.write_bytes(raw)
    stranger, fifo = tmp_path / "spill" / "notes.txt", tmp_path / "spill" / "p.kv"
    stranger.write_text("mine")
    os.mkfifo(fifo)
    assert list(files.found()) == []
    assert not file.exists()
    assert not fifo.exists()
    assert stranger.read_text() == "mine"
    assert "another release" in caplog.text
    assert "left alone" in caplog.text


def test_a_link_is_not_followed(files: SpillFiles, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    files.write(kept("a"), scattered(100))
    (tmp_path / "spill" / "a.0.7.kv").rename(outside)
    (tmp_path / "spill" / "a.0.7.kv").symlink_to(outside)
    with pytest.raises(OSError, match="symbolic links"):
        files.read(kept("a"), in_slots(100))
    assert list(files.found()) == []
    assert outside.exists()


def test_another_prompts_file_is_not_read_under_this_name(
    files: SpillFiles, tmp_path: Path
) -> None:
    files.write(kept("a"), scattered(100))
    (tmp_path / "spill" / "a.0.7.kv").rename(tmp_path / "spill" / "b.0.7.kv")
    with pytest.raises(SpillFault, match="something else"):
        files.read(kept("b"), in_slots(100))
    assert list(files.found()) == []


def test_names_made_with_another_key_are_found_by_nobody(tmp_path: Path) -> None:
    first = opened(tmp_path / "spill")
    first.write(kept(), scattered(100))
    first.close()
    second = opened(tmp_path / "spill", key_id="f" * 16)
    assert list(second.found()) == []
    second.close()


def test_a_full_disk_leaves_nothing(
    files: SpillFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = os.pwrite, [1]

    def pwrite(file: int, view: memoryview, at: int) -> int:
        if not left:
            raise OSError(errno.ENOSPC, "No space left on device")
        left.pop()
        return real(file, view, at)

    monkeypatch.setattr(spill_files.os, "pwrite", pwrite)
    with pytest.raises(OSError, match="No space left") as raised:
        files.write(kept(size=2 * CHUNK_BYTES), scattered(2 * CHUNK_BYTES))
    assert is_full(raised.value)
    assert [file.name for file in (tmp_path / "spill").iterdir()] == ["lock"]


def test_a_short_write_and_a_short_read_go_on(
    files: SpillFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, read = os.pwrite, os.preadv
    monkeypatch.setattr(spill_files.os, "pwrite", lambda f, v, at: write(f, v[: 3 * ALIGN], at))
    monkeypatch.setattr(
        spill_files.os, "preadv", lambda f, views, at: read(f, [views[0][: 2 * ALIGN]], at)
    )
    size = SLOT + 5 * ALIGN + 7
    wanted = bytes_at(files, scattered(size))
    files.write(kept(size=size), scattered(size))
    files.read(kept(size=size), in_slots(size))
    assert bytes_at(files, in_slots(size)) == wanted


class TestDirectory:
    def test_memory_is_no_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(spill_directory, "file_system", lambda path: "tmpfs")
        with pytest.raises(ConfigError, match="tmpfs, which is memory"):
            opened(tmp_path / "spill")

    def test_the_kernel_says_what_it_is(self) -> None:
        assert file_system(Path("/dev/shm")) == "tmpfs"
        assert file_system(Path("/proc")) == "proc"

    def test_others_must_not_look(self, tmp_path: Path) -> None:
        (tmp_path / "spill").mkdir(mode=0o755)
        with pytest.raises(ConfigError, match="chmod 700"):
            opened(tmp_path / "spill")

    def test_one_agent_at_a_time(self, tmp_path: Path) -> None:
        first = opened(tmp_path / "spill")
        with pytest.raises(ConfigError, match="in use by another agent"):
            opened(tmp_path / "spill")
        first.close()
        opened(tmp_path / "spill").close()

    def test_it_is_made_but_not_what_it_lies_in(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="No such file"):
            opened(tmp_path / "a" / "b")
        (tmp_path / "file").write_text("")
        with pytest.raises(ConfigError, match="Not a directory"):
            opened(tmp_path / "file")
        with pytest.raises(ConfigError, match="absolute"):
            opened(Path("relative"))

    def test_it_must_be_writable(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real = os.open

        def refuse(name: object, flags: int, *args: object, **more: object) -> int:
            if name == "lock":
                raise PermissionError(errno.EACCES, "Permission denied")
            return real(name, flags, *args, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(spill_directory.os, "open", refuse)
        with pytest.raises(ConfigError, match="cannot be written: Permission denied"):
            opened(tmp_path / "spill")

    def test_it_must_be_this_users(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(spill_directory.os, "geteuid", lambda: os.getuid() + 1)
        with pytest.raises(ConfigError, match="belongs to user"):
            opened(tmp_path / "spill")
