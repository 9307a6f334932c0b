"""Followers of a cache: late ones, slow ones, those whose line breaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import pytest

from prfaas.core.errors import EngineError
from prfaas.core.prefixes import MOST_BLOCK_TOKENS
from prfaas.gateway.carried_events import KeyedFollower
from prfaas.index.cache_events import BlocksGone, BlocksKeyed, BlocksStored
from prfaas.index.keyed_blocks import key_id
from prfaas.index.keys import BlockHasher, PromptKeys
from prfaas.index.prefix_index import PrefixIndex
from prfaas.kv_events import record as module
from prfaas.kv_events import telling
from prfaas.kv_events.follower import KvEventFollower
from prfaas.kv_events.record import CacheRecord
from prfaas.kv_events.wire import (
    MOST_FRAME_BYTES,
    Alive,
    Begun,
    Changed,
    Deflater,
    Frame,
    FrameReader,
    Held,
    Reached,
    Stopped,
    packed,
)

BLOCK, SECRET = 4, b"secret"
TOKENS = list(range(10_000, 50_000))


def stored(first: int, count: int = 1) -> BlocksStored:
    return BlocksStored(
        group=0,
        kind="full_attention",
        block_tokens=BLOCK,
        hashes=list(range(first + 1, first + count + 1)),
        parent=first or None,
        token_ids=TOKENS[first * BLOCK : (first + count) * BLOCK],
    )


def make_record() -> CacheRecord:
    return CacheRecord(BlockHasher(SECRET), SECRET, lambda: True)


class Gateway:
    def __init__(self) -> None:
        self.index = PrefixIndex(max_blocks=20_000, seed=SECRET)
        self.follower = KeyedFollower(self.index.engine("e"), key_id(SECRET))

    @property
    def held(self) -> int:
        found = self.index.match(PromptKeys(TOKENS))
        return found[0].match.transferable_tokens // BLOCK if found else 0

    async def take(self, record: CacheRecord, *, frames: int) -> list[str]:
        """So many of a new stream from where it is; then the line breaks. Returns their kinds."""
        deflate, reader, kinds = Deflater(), FrameReader(), []
        stream = record.follow(self.follower.stopped)
        async for data in stream:
            for frame in reader.feed(deflate(data)):
                self.follower.take(frame)
                kinds.append(type(frame).__name__)
            if len(kinds) >= frames:
                break
        await closed(stream)
        return kinds


async def closed(stream: AsyncIterator[bytes]) -> None:
    await stream.aclose()  # type: ignore[attr-defined]


async def test_a_late_follower_gets_all_then_what_changes() -> None:
    record, gateway = make_record(), Gateway()
    record.stored(stored(0, 5))
    assert await gateway.take(record, frames=5) == ["Alive", "Begun", "Held", "Held", "Reached"]
    assert gateway.held == 5
    record.stored(stored(5, 2))
    record.removed(0, [7])
    assert await gateway.take(record, frames=3) == ["Alive", "Changed", "Changed"]
    assert gateway.held == 6
    assert gateway.follower.resets_total == 1  # What it knew was not told again.


async def test_a_line_that_breaks_in_the_middle_goes_on_there() -> None:
    record, gateway = make_record(), Gateway()
    for first in range(0, 9000, 100):
        record.stored(stored(first, 100))
    assert await gateway.take(record, frames=4) == ["Alive", "Begun", "Held", "Held"]
    assert gateway.held == 2048
    record.stored(stored(9000, 100))
    kinds = []
    while "Changed" not in kinds:  # It breaks after each piece.
        kinds += (await gateway.take(record, frames=2))[1:]
    assert kinds == 4 * ["Held"] + ["Reached", "Changed"]
    assert gateway.held == 9100
    gateway.index.check_integrity()


async def test_who_was_cut_off_before_the_engine_began_anew_is_told_anew() -> None:
    record, gateway = make_record(), Gateway()
    record.stored(stored(0, 5000))
    await gateway.take(record, frames=4)
    record.clear()
    record.stored(stored(0, 3))
    await gateway.take(record, frames=5)
    assert gateway.held == 3


async def test_what_changes_while_all_is_told_on_a_slow_line_is_not_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The engine changes as much as it holds in the time in which half of that is told."""
    monkeypatch.setattr(telling, "_LEAST_BYTES", 500)
    record, gateway = make_record(), Gateway()
    record.stored(stored(0, 8000))
    at, kinds = 8000, []
    for _ in range(60):  # Its line breaks after each piece as well.
        kinds += (await gateway.take(record, frames=2))[1:]
        if "Changed" in kinds and gateway.follower.stopped.number == record.number:
            break
        for _ in range(8):
            record.removed(0, list(range(at, at - 250, -1)))
            record.stored(stored(at - 250, 250))
    assert kinds.count("Begun") == 1
    assert gateway.held == 8000
    gateway.index.check_integrity()


async def test_many_who_come_are_told_what_was_made_once() -> None:
    record, made = make_record(), []
    for first in range(0, 9000, 100):
        record.stored(stored(first, 100))
    snapshot = record._blocks.snapshot
    record._blocks.snapshot = lambda: made.append(1) or snapshot()  # type: ignore[method-assign,func-returns-value]
    gateways = [Gateway() for _ in range(3)]
    for gateway in gateways:
        await gateway.take(record, frames=8)
        record.stored(stored(9000, 1))
    assert [gateway.held for gateway in gateways] == [9000, 9000, 9000]
    assert len(made) == 1


async def test_no_more_is_remembered_than_takes_as_long_as_all_that_is_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(telling, "_LEAST_BYTES", 10_000)
    record = make_record()
    for _ in range(100):
        await Gateway().take(record, frames=4)
        record.stored(stored(0, 100))
        for name in range(1, 101):
            record.removed(0, [name])
    changes = record._changes
    assert sum(map(len, changes._frames)) <= 10_000 + telling._A_BLOCK * 100
    assert len(changes._frames) < 1000
    assert len(changes._tellings) <= 3


@pytest.mark.parametrize("told", [10**6, 10**15 - 1])
async def test_a_piece_that_never_was_is_the_end(told: int) -> None:
    record = make_record()
    record.stored(stored(0, 5))
    await Gateway().take(record, frames=4)
    stream = record.follow(Stopped(record.epoch, record.number, told))
    frames = [next(FrameReader().feed(Deflater()(await anext(stream)))) for _ in range(2)]
    assert frames[1:] == [Reached(record.number)]
    await closed(stream)


@pytest.mark.parametrize("stopped", [Stopped(), Stopped("e", 3), Stopped("e", 3, 0)])
def test_where_one_stopped_is_asked_for_in_a_path(stopped: Stopped) -> None:
    query = dict(parse_qsl(stopped.query()))
    assert Stopped.of(query, int(query.get("number", 0))) == stopped


def test_agents_of_earlier_releases_are_not_asked_to_go_on_with_what_they_told() -> None:
    """They take who names an epoch to know all of it, and do not say where they began."""
    assert "epoch" not in dict(parse_qsl(Stopped("e", 3, 1).query()))
    gateway = Gateway()
    gateway.follower.take(Begun("e", key_id(SECRET)))
    gateway.follower.take(Held([]))
    assert gateway.follower.stopped.query() == ""


async def test_who_was_away_for_too_long_gets_all_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "_LEAST_BYTES", 500)
    monkeypatch.setattr(telling, "_A_BLOCK", 0)
    record, gateway = make_record(), Gateway()
    record.stored(stored(0))
    await gateway.take(record, frames=5)
    for first in range(1, 40):
        record.stored(stored(first))
    assert "Begun" in await gateway.take(record, frames=5)
    assert gateway.held == 40


async def test_an_engine_that_begins_anew_empties_what_is_known() -> None:
    record, gateway = make_record(), Gateway()
    record.stored(stored(0, 5))
    await gateway.take(record, frames=5)
    record.clear()
    record.stored(stored(0, 1))
    await gateway.take(record, frames=5)
    assert gateway.held == 1


async def test_a_clear_while_all_is_told_is_not_missed() -> None:
    record, gateway = make_record(), Gateway()
    record.stored(stored(0, 5000))
    reader = FrameReader()
    stream, deflate = record.follow(Stopped()), Deflater()
    seen: list[Frame] = []
    async for data in stream:
        for frame in reader.feed(deflate(data)):
            gateway.follower.take(frame)
            seen.append(frame)
        if isinstance(seen[-1], Held) and len(seen) == 4:
            record.clear()
        if [type(f) for f in seen].count(Begun) == 2 and isinstance(seen[-1], Reached):
            break
    await closed(stream)
    assert gateway.held == 0


async def test_news_come_at_once_and_silence_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    record = make_record()
    monkeypatch.setattr(module, "ALIVE_S", 0.01)
    stream = record.follow(Stopped())
    waiting = [await anext(stream) for _ in range(5)]
    assert [type(f) for f in FrameReader().feed(Deflater()(b"".join(waiting)))][-1] is Alive
    monkeypatch.setattr(module, "ALIVE_S", 1000.0)
    news = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    record.stored(stored(0))
    found = [type(f) for f in FrameReader().feed(Deflater()(await news))]
    while Changed not in found:
        found += [type(f) for f in FrameReader().feed(Deflater()(await anext(stream)))]
    await closed(stream)


def frames_of(data: bytes) -> Iterator[Frame]:
    return FrameReader().feed(Deflater()(data))


@pytest.mark.parametrize(
    "bad",
    [
        (MOST_FRAME_BYTES + 1).to_bytes(4, "big") + b"x",
        b"\0\0\0\1\xc1",
        packed(Alive(True))[:4] + b"\x81\xa4type\xa1?",
    ],
)
def test_frames_that_are_none_are_errors(bad: bytes) -> None:
    with pytest.raises(EngineError):
        list(frames_of(bad + b"\0" * 64))


KEYED = {"type": "keyed", "group": 0, "kind": "full_attention", "block_tokens": 4,
         "names": bytes(16), "keys": bytes(32), "window_tokens": 8}  # fmt: skip


@pytest.mark.parametrize(
    "other",
    [
        {"names": bytes(15)},
        {"names": bytes(17), "keys": bytes(34)},
        {"keys": bytes(31)},
        {"keys": bytes(16)},
        {"keys": bytes(64)},
        {"block_tokens": 0},
        {"block_tokens": MOST_BLOCK_TOKENS + 1},
        {"window_tokens": 1 << 63},
        {"kind": "x" * 257},
        {"type": "gone", "names": b"1234567"},
    ],
)
def test_events_that_make_no_sense_are_errors(other: dict[str, object]) -> None:
    """Whoever reads arrays of words from them, or makes a key as long as a block, is not asked."""

    def told(event: dict[str, object]) -> list[Frame]:
        body = msgspec.msgpack.encode({"type": "held", "events": [event]})
        return list(frames_of(len(body).to_bytes(4, "big") + body))

    assert len(told(KEYED)) == 1
    with pytest.raises(EngineError, match="unreadable cache events"):
        told(KEYED | other)


@pytest.mark.parametrize(
    "frame",
    [
        {"type": "begun", "epoch": "e" * 65, "key_id": "k"},
        {"type": "begun", "epoch": "a HTTP/1.1\r\n", "key_id": "k"},
        {"type": "begun", "epoch": "e", "key_id": "k", "number": -2},
        {"type": "reached", "number": 1 << 60},
        {"type": "changed", "number": -1, "events": []},
    ],
)
def test_places_that_nobody_can_go_on_from_are_errors(frame: dict[str, object]) -> None:
    """A follower says them to the agent again, in a URL."""
    body = msgspec.msgpack.encode(frame)
    with pytest.raises(EngineError, match="unreadable cache events"):
        list(frames_of(len(body).to_bytes(4, "big") + body))


@pytest.mark.parametrize(
    "other",
    [
        {"block_size": MOST_BLOCK_TOKENS + 1},
        {"block_size": 1 << 40},
        {"kv_cache_spec_sliding_window": 1 << 63},
        {"kv_cache_spec_kind": "x" * 257},
    ],
)
def test_blocks_that_no_model_has_are_errors(other: dict[str, object]) -> None:
    stored = {"type": "BlockStored", "block_hashes": [1], "parent_block_hash": None,
              "token_ids": [1, 2, 3, 4], "block_size": 4}  # fmt: skip
    record = make_record()
    follower = KvEventFollower(record)
    follower.take(0, msgspec.msgpack.encode([0.0, [stored]]))
    assert record.blocks == 1
    with pytest.raises(EngineError, match="unreadable KV events"):
        follower.take(1, msgspec.msgpack.encode([0.0, [stored | other]]))


@pytest.mark.parametrize("group", [-1, 128, 1 << 40])
def test_a_group_that_no_model_has_is_an_error(group: int) -> None:
    """Each would cost every set of holders as many bits as there are engines."""
    keyed = BlocksKeyed(group=group, kind="full_attention", block_tokens=4, names=b"")
    for event in (keyed, BlocksGone(group, b"")):
        with pytest.raises(EngineError, match="unreadable cache events"):
            list(frames_of(packed(Held([event]))))
    batch = [0.0, [{"type": "BlockRemoved", "block_hashes": [1], "group_idx": group}]]
    follower = KvEventFollower(make_record())
    with pytest.raises(EngineError, match="unreadable KV events"):
        follower.take(0, msgspec.msgpack.encode(batch))


def test_what_is_alike_is_sent_once() -> None:
    frames = packed(Held([BlocksGone(0, bytes(8))])) * 1000
    assert len(Deflater()(frames)) < len(frames) / 100


def test_a_stream_that_is_not_deflated_is_an_error() -> None:
    with pytest.raises(EngineError, match="not deflated"):
        list(FrameReader().feed(b"plainly no zlib"))


def test_a_follower_takes_nothing_out_of_order() -> None:
    for frames in (
        [Held([])],
        [Reached(1)],
        [Changed(1, [])],
        [Begun("e", "another key")],
        [Begun("e", key_id(SECRET)), Reached(3), Changed(5, [])],
    ):
        follower, last = Gateway().follower, frames[-1]
        for frame in frames[:-1]:
            follower.take(frame)
        with pytest.raises(EngineError):
            follower.take(last)


def test_who_is_far_behind_costs_no_more_than_what_it_is_given() -> None:
    """The agent's event loop has others to serve between two pieces."""

    class Counted(list[bytes]):
        looks = 0

        def __getitem__(self, at: Any) -> Any:
            found = super().__getitem__(at)
            Counted.looks += len(found) if isinstance(at, slice) else 1
            return found

    record = make_record()
    for number in range(1000):
        record.removed(0, [number])
    changes = record._changes
    changes._frames = Counted(changes._frames)
    given = changes.after(10)
    assert given is not None
    numbers = [f.number for f in frames_of(b"".join(given)) if isinstance(f, Changed)]
    assert numbers == list(range(11, 11 + len(given)))
    assert Counted.looks <= len(given) + 1 < 1000
