"""How many cores a process may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from prfaas.link.tcp.config import Plaintext, TcpLinkConfig
from prfaas.link.tcp.cores import usable_cores
from prfaas.link.tcp.workers import may_have_workers


@pytest.mark.parametrize(
    ("limit", "cores"), [("max 100000", 16), ("250000 100000", 2.5), ("", 16), ("what 1", 16)]
)
def test_a_container_may_use_fewer_than_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, cores: float
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    (tmp_path / "cpu.max").write_text(limit)
    assert usable_cores(tmp_path / "cpu.max") == cores
    assert usable_cores(tmp_path / "missing") == 16


@pytest.mark.parametrize(
    ("cores", "workers", "allowed"),
    [(2, None, False), (7, None, False), (8, None, True), (64, 0, False), (2, 1, True)],
)
def test_link_workers_need_cores_or_to_be_asked_for(
    monkeypatch: pytest.MonkeyPatch, cores: int, workers: int | None, allowed: bool
) -> None:
    monkeypatch.setattr("prfaas.link.tcp.workers.usable_cores", lambda: float(cores))
    config = TcpLinkConfig(name="a", security=Plaintext(), workers=workers)
    assert may_have_workers(config) is allowed
