"""The arena: nameless, whole, and refused where it does not fit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from prfaas.agent.arena import Arena
from prfaas.core.errors import ConfigError


def test_arena_has_no_name_and_all_of_its_pages(tmp_path: Path) -> None:
    arena = Arena("x", 1 << 20, directory=tmp_path)
    assert os.listdir(tmp_path) == []
    assert os.fstat(arena.fd).st_blocks * 512 == 1 << 20
    arena.view[:3] = b"abc"
    arena.copy(0, 10, 3)
    assert os.pread(arena.fd, 3, 10) == b"abc"
    arena.close()


def test_arena_that_does_not_fit() -> None:
    with pytest.raises(ConfigError, match="make the agent's arena smaller"):
        Arena("x", 1 << 50)
    assert not [name for name in os.listdir("/dev/shm") if name.startswith("prfaas-x-")]
