"""Frames of an engine's cache as they are applied: however long one is, others get their turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from prfaas.gateway import carried_events
from prfaas.gateway.carried_events import CarriedFeed, KeyedFollower
from prfaas.index.cache_events import BlocksGone, BlocksKeyed
from prfaas.index.keys import BlockHasher, PromptKeys
from prfaas.index.matching import PrefixMatch
from prfaas.index.prefix_index import PrefixIndex
from prfaas.kv_events.wire import Alive, Begun, Frame, Held, Reached, Stopped

COUNT = 2000
TOKENS = list(range(4 * COUNT + 1))
NAMES = np.arange(1, COUNT + 1, dtype=np.uint64)


def keys() -> bytes:
    hasher = BlockHasher(b"")
    made = hasher.extend(hasher.root(4), np.array(TOKENS[:-1], np.uint32), 4, ())
    return np.array(made, np.uint64).tobytes()


def stored(
    *, kind: str = "full_attention", group: int = 0, parent: int | None = None
) -> BlocksKeyed:
    return BlocksKeyed(
        group=group,
        kind=kind,
        block_tokens=4,
        names=NAMES.tobytes(),
        keys=keys() if kind == "full_attention" else b"",
        parent=parent,
    )


def follower() -> tuple[PrefixIndex, KeyedFollower]:
    index = PrefixIndex(max_blocks=10_000, max_engines=4)
    made = KeyedFollower(index.engine("e"), "id")
    made.take(Begun("epoch", "id"))
    return index, made


def pauses(made: KeyedFollower, *events: BlocksKeyed | BlocksGone) -> int:
    return sum(1 for _ in made.steps(Held(list(events))))


def test_a_long_event_is_applied_piece_by_piece_as_it_is() -> None:
    index, made = follower()
    assert pauses(made, stored()) == 3
    assert pauses(made, stored(kind="mamba", group=1)) == 3
    (found,) = index.match(PromptKeys(TOKENS))
    assert found.match == PrefixMatch(4 * COUNT, 4 * COUNT)
    assert made.index.unplaced_blocks_total == 0
    assert pauses(made, BlocksGone(None, NAMES[1000:].tobytes())) == 1
    (found,) = index.match(PromptKeys(TOKENS))
    assert found.match == PrefixMatch(4000, 4000)
    index.check_integrity()


def test_a_long_event_that_makes_no_sense_is_not_placed() -> None:
    index, made = follower()
    pauses(made, stored(parent=5))
    assert made.index.unplaced_blocks_total == COUNT
    assert index.blocks == 0


def test_events_of_nothing_take_time_as_well() -> None:
    _, made = follower()
    assert pauses(made, *[BlocksGone(0, b"")] * 1000) > 10


async def test_a_cache_that_begins_anew_all_the_time_is_not_emptied_all_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(carried_events, "_ANEW_S", 1000.0)
    index = PrefixIndex(max_blocks=100, max_engines=4)
    made = KeyedFollower(index.engine("e"), "id")
    told = asyncio.Event()

    async def follow(_stopped: Stopped) -> AsyncIterator[Frame]:
        yield Begun("a", "id")
        yield Reached(0)
        yield Alive(True)
        told.set()
        while True:
            yield Begun("b", "id")

    running = asyncio.create_task(CarriedFeed("e", made, follow, asyncio.Lock()).run())
    await told.wait()
    for _ in range(100):
        await asyncio.sleep(0)
    assert made.stopped.epoch == "a"
    assert made.resets_total == 2, "when it began to follow, and once"
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_each_cause_of_a_silence_is_said_and_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(carried_events, "_RETRY_S", 0.0)
    made = KeyedFollower(PrefixIndex(max_blocks=100, max_engines=4).engine("e"), "id")
    times, over = 0, asyncio.Event()

    async def follow(_stopped: Stopped) -> AsyncIterator[Frame]:
        nonlocal times
        times += 1
        if times == 4:
            yield Begun("a", "id")
            yield Reached(0)
        if times == 6:
            over.set()
        yield Alive(False)
        yield Begun("a", "another")

    running = asyncio.create_task(CarriedFeed("e", made, follow, asyncio.Lock()).run())
    await over.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    whys = [line.rpartition("(")[2][:12] for line in caplog.messages if "nothing is heard" in line]
    assert whys == ["its agent do", "its agent ha"] * 2, "before it was heard, and after"
