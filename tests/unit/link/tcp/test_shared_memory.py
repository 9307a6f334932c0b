"""Memory that an agent and its link workers have in common."""

from __future__ import annotations

import mmap
import os

import pytest

from prfaas.core.errors import CallerError
from prfaas.link.tcp.shared_memory import SharedMemory, map_shared


@pytest.fixture
def shared() -> SharedMemory:
    fd = os.memfd_create("arena")
    os.ftruncate(fd, 8192)
    return SharedMemory(fd, memoryview(mmap.mmap(fd, 8192)))


def test_an_extent_names_the_same_bytes_in_another_mapping(shared: SharedMemory) -> None:
    other = map_shared(shared.fd)
    extent = shared.extent(shared.view[100:300])
    assert extent == (100, 200)
    shared.view[100:104] = b"here"
    assert other.part(*extent)[:4] == b"here"


def test_memory_elsewhere_has_no_extent(shared: SharedMemory) -> None:
    for view in (memoryview(bytearray(8)), memoryview(b"read-only"), shared.view.toreadonly()):
        with pytest.raises(CallerError, match="arena only"):
            shared.extent(view)


@pytest.mark.parametrize("extent", [(0, 8193), (8192, 1), (8000, -1)])
def test_nothing_beyond_it_is_touched(shared: SharedMemory, extent: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="of 8192 bytes"):
        shared.part(*extent)


def test_any_bytes_lie_outside(shared: SharedMemory) -> None:
    scratch = shared.part(-1, 100)
    scratch[:] = b"x" * 100
    assert len(shared.part(-1, 200)) == 200
    assert shared.view[:] == bytes(8192)
