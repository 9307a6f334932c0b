"""What several rooms of this directory share."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.agent.spill_stage import Stage

from prfaas.agent import spill_directory


@pytest.fixture
async def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    monkeypatch.setattr(spill_directory, "file_system", lambda path: "ext4")
    stage = Stage(tmp_path)
    yield stage
    await stage.end()
    assert not [t for t in threading.enumerate() if t.name.startswith("prfaas")]
