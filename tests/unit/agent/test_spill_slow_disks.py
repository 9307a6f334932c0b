"""Disks that are full, slow, or hang: they hold up nothing else, and the engine computes."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from typing import Any

import pytest
from tests.unit.agent.spill_stage import SIZE, SLOT, WAIT_S, Stage, prefix, settled

from prfaas.agent import spill_files


async def test_a_full_disk_is_no_bodys_problem(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, full = os.pwrite, threading.Event()

    def pwrite(file: int, view: memoryview, at: int) -> int:
        if full.is_set():
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, view, at)

    monkeypatch.setattr(spill_files.os, "pwrite", pwrite)
    await stage.begin()
    await stage.keep(1)
    full.set()
    await asyncio.to_thread(stage._keep, 2, None)
    await settled(lambda: stage.pool.counters.spill_write_failures)
    assert [await stage.load(number) for number in (1, 2)] == ["ok", "ok"]
    assert [entry.transfer_id for entry in stage.on_disk] == ["t1"]
    await settled(lambda: not stage.pool.slots.held)


async def test_a_disk_that_hangs_holds_up_nothing_else(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = threading.Event()
    real = os.pwrite

    def pwrite(file: int, view: memoryview, at: int) -> int:
        hangs.wait(WAIT_S)
        return real(file, view, at)

    monkeypatch.setattr(spill_files.os, "pwrite", pwrite)
    await stage.begin()
    try:
        for number in range(1, 9):
            await asyncio.to_thread(stage._keep, number, None)
            assert await stage.load(number) == "ok"
        # One is being written; what memory has evicted meanwhile is not written any more.
        assert stage.pool.counters.spill_missed
        await settled(lambda: stage.pool.slots.held == -(-SIZE // SLOT))
    finally:
        hangs.set()
    await settled(lambda: stage.pool.counters.spill_written >= 3)


def reading_hangs(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Until what is returned is set."""
    hangs, real = threading.Event(), os.preadv

    def preadv(file: int, views: Any, at: int) -> int:
        hangs.wait(WAIT_S)
        return real(file, views, at)

    monkeypatch.setattr(spill_files.os, "preadv", preadv)
    return hangs


async def test_where_the_disk_is_too_slow_the_engine_computes(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.begin()
    await stage.keep(1)
    await stage.end()
    hangs = reading_hangs(monkeypatch)
    monkeypatch.setattr("prfaas.pool.loads.LEAST_S", 0.0)
    await stage.begin()
    try:
        await settled(lambda: stage.on_disk)
        assert await stage.load(1) == "the disk is too slow"
        stage.agent.driver.check_integrity()  # type: ignore[union-attr]
    finally:
        hangs.set()
    await settled(lambda: stage.pool.counters.spill_read)
    assert await stage.load(1) == "ok"


async def test_an_engine_that_dies_while_it_waits_leaves_nothing_behind(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.begin()
    await stage.keep(1)
    await stage.end()
    hangs = reading_hangs(monkeypatch)
    await stage.begin()
    try:
        await settled(lambda: stage.on_disk)
        assert stage.rank is not None
        client = stage.rank.client
        load = client.open_load(
            local_tokens=0, to_token=16, block_tokens=16, names=prefix(1).digests
        )
        await settled(lambda: stage.pool.slots.held)
        await asyncio.to_thread(client.close)
        client.close_load(load)
        stage.rank = None
        await settled(lambda: not stage.pool.engines)
    finally:
        hangs.set()
    await settled(lambda: stage.pool.counters.spill_read)
    assert stage.pool.slots.held == 0
    assert [entry.transfer_id for entry in stage.pool.cached] == ["t1"]
