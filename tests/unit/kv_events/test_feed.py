"""The event feed against a publisher that speaks vLLM's wire format."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
import zmq
import zmq.asyncio

from prfaas.core.errors import EngineError
from prfaas.index.engine_index import EngineIndex
from prfaas.index.keys import PromptKeys
from prfaas.index.prefix_index import PrefixIndex
from prfaas.kv_events.feed import FeedState, KvEventFeed
from prfaas.kv_events.follower import KvEventFollower
from prfaas.testing.mock_deployment import until
from prfaas.testing.mock_publisher import MockPublisher

BLOCK = 4
TOKENS = list(range(50, 90))


def stored(first: int, count: int = 1) -> dict[str, Any]:
    """Blocks [first, first + count) of `TOKENS`, with every field vLLM 0.32 sends."""
    hashes = [2**63 + number for number in range(first, first + count)]
    return {
        "type": "BlockStored",
        "block_hashes": hashes,
        "parent_block_hash": 2**63 + first - 1 if first else None,
        "token_ids": TOKENS[first * BLOCK : (first + count) * BLOCK],
        "block_size": BLOCK,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
        "extra_keys": [None] * count,
        "group_idx": 0,
        "kv_cache_spec_kind": "full_attention",
    }


REMOVED = {"type": "BlockRemoved", "block_hashes": [2**63 + 1], "medium": "GPU", "group_idx": 0}
CLEARED = {"type": "AllBlocksCleared"}


def batch(*events: dict[str, Any], ts: float = 1.0) -> bytes:
    return msgspec.msgpack.encode([ts, list(events), 0])


INDICES: dict[EngineIndex, PrefixIndex] = {}


def empty_index() -> EngineIndex:
    """Of the only engine of an index."""
    index = PrefixIndex(max_blocks=1000)
    engine = index.engine("e")
    INDICES[engine] = index
    return engine


def held(engine: EngineIndex) -> int:
    found = INDICES[engine].match(PromptKeys(TOKENS))
    return found[0].match.transferable_tokens if found else 0


class TestFollower:
    def test_in_order(self) -> None:
        follower = KvEventFollower(empty_index())
        assert follower.take(0, batch(stored(0, 3)))
        assert held(follower.index) == 12
        assert follower.take(1, batch(REMOVED))
        assert held(follower.index) == 4
        assert follower.take(2, batch(CLEARED))
        assert held(follower.index) == 0

    def test_a_gap_asks_for_a_replay_that_fills_it(self) -> None:
        follower = KvEventFollower(empty_index())
        assert follower.take(0, batch(stored(0)))
        assert not follower.take(2, batch(stored(2)))
        assert follower.next_number == 1
        follower.take_replayed(1, batch(stored(1)))
        follower.take_replayed(2, batch(stored(2)))
        assert held(follower.index) == 12
        assert follower.take(2, batch(stored(2)))  # the live copy of what was replayed
        assert follower.batches_total == 3

    def test_what_cannot_be_replayed_empties_the_index(self) -> None:
        follower = KvEventFollower(empty_index())
        follower.take(0, batch(stored(0, 2)))
        follower.take_replayed(7, batch(stored(0, 1)))
        assert held(follower.index) == 4
        assert follower.next_number == 8

    def test_a_new_publisher_starts_over(self) -> None:
        follower = KvEventFollower(empty_index())
        follower.take(0, batch(stored(0, 3), ts=5.0))
        follower.take(1, batch(ts=6.0))
        assert follower.take(0, batch(stored(0, 1), ts=7.0))
        assert held(follower.index) == 4

    def test_copies_in_other_media_are_not_the_engines_cache(self) -> None:
        follower = KvEventFollower(empty_index())
        follower.take(0, batch(stored(0) | {"medium": "CPU"}))
        assert held(follower.index) == 0
        follower.take(1, batch(stored(0), stored(1), REMOVED | {"medium": "CPU"}))
        assert held(follower.index) == 8

    def test_a_long_event_is_applied_piece_by_piece_and_holds_the_same(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = KvEventFollower(empty_index())
        whole.take(0, batch(stored(0, 8), stored(8, 2)))
        monkeypatch.setattr("prfaas.kv_events.follower._AT_ONCE", 3)
        follower = KvEventFollower(empty_index())
        assert follower.take(0, batch(stored(0, 8), stored(8, 2)))
        seen = [held(follower.index)]
        while follower.go_on():
            seen.append(held(follower.index))
        seen.append(held(follower.index))
        assert seen == [0, 12, 24, held(whole.index)]
        assert (follower.next_number, follower.batches_total) == (1, 1)
        assert follower.index.unplaced_blocks_total == 0

    def test_who_takes_the_next_batch_has_taken_the_rest_of_the_one_before(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("prfaas.kv_events.follower._AT_ONCE", 3)
        follower = KvEventFollower(empty_index())
        follower.take_replayed(0, batch(stored(0, 8)))
        follower.take_replayed(1, batch(stored(8, 2)))
        assert (held(follower.index), follower.next_number) == (36, 2)
        follower.take(2, batch(stored(0, 8)))
        follower.restart()
        assert not follower.go_on()
        assert held(follower.index) == 0

    def test_garbage_is_an_engine_error(self) -> None:
        follower = KvEventFollower(empty_index())
        for payload in (
            batch(stored(0) | {"token_ids": [-1]}),
            batch(stored(0) | {"block_size": 0}),
            batch(stored(0) | {"block_size": -4}),
            batch(stored(0) | {"extra_keys": ["?"]}).replace(b"\xa1?", b"\xa1\xff"),
            b"",
            b"\xc1",
            batch({"type": "Unheard"}),
            msgspec.msgpack.encode([1.0]),
        ):
            with pytest.raises(EngineError, match="unreadable KV events"):
                follower.take(0, payload)


@contextlib.asynccontextmanager
async def following(
    host: str = "127.0.0.1",
) -> AsyncIterator[tuple[KvEventFeed, MockPublisher]]:
    with zmq.asyncio.Context() as context:
        publisher = MockPublisher(context, host)

        async def discover() -> tuple[str, str | None]:
            return publisher.events, publisher.replay

        feed = KvEventFeed("e", empty_index(), discover, context)
        tasks = [asyncio.create_task(feed.run()), asyncio.create_task(publisher.serve_replays())]
        try:
            yield feed, publisher
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            publisher.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_late_feed_catches_up_then_follows_live(host: str) -> None:
    async with following(host) as (feed, publisher):
        await publisher.publish(batch(stored(0, 2)))
        await until(lambda: feed.state is FeedState.LIVE)
        index = feed.follower.index
        await until(lambda: held(index) == 8)
        await publisher.publish(batch(stored(2)))
        await until(lambda: held(index) == 12)
        before = publisher.replays
        await publisher.publish(batch(stored(3)), lose=True)
        await publisher.publish(batch(stored(4)))
        await until(lambda: held(index) == 20)
        assert publisher.replays == before + 1


async def test_others_have_their_turn_during_a_replay() -> None:
    async with following() as (feed, publisher):
        publisher.kept += [batch()] * 500
        before, most = 0, 0
        async with asyncio.timeout(60):
            while before < 500:
                await asyncio.sleep(0)
                now = feed.follower.batches_total
                before, most = now, max(most, now - before)
        assert most == 1


async def test_others_have_their_turn_during_a_long_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prfaas.kv_events.follower._AT_ONCE", 1)
    async with following() as (feed, publisher):
        await until(lambda: feed.state is FeedState.LIVE)
        await publisher.publish(batch(stored(0, 10)))
        seen = set()
        async with asyncio.timeout(60):
            while not feed.follower.batches_total:
                seen.add(feed.follower.index.blocks)
                await asyncio.sleep(0)
        assert seen >= set(range(1, 10))
        assert held(feed.follower.index) == 36


@pytest.mark.parametrize(
    "frames",
    [
        [b"kv", b"\xff" * 8, batch()],
        [b"kv", b"\xff" * 9, batch()],
        [b"kv", b"", b"kv", batch()],
        [b""],
    ],
)
async def test_a_message_without_a_number_is_an_error_of_that_message_only(
    frames: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    async with following() as (feed, publisher):
        await until(lambda: feed.state is FeedState.LIVE)
        await publisher.publish(batch(stored(0)))
        await until(lambda: held(feed.follower.index) == 4)
        await publisher.send(frames)
        await until(lambda: "without a number" in caplog.text)
        await publisher.publish(batch(stored(1)))
        await until(lambda: held(feed.follower.index) == 8)
        assert feed.state is FeedState.LIVE
        assert feed.follower.resets_total == 1  # When it began.


async def test_a_batch_that_cannot_be_read_empties_the_index_and_the_next_is_applied(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with following() as (feed, publisher):
        await until(lambda: feed.state is FeedState.LIVE)
        await publisher.publish(batch(stored(0, 3)))
        await until(lambda: held(feed.follower.index) == 12)
        await publisher.publish(b"\xc1")
        await publisher.publish(batch(stored(0)))
        await until(lambda: held(feed.follower.index) == 4)
        assert feed.state is FeedState.LIVE
        assert feed.follower.unreadable_total == 1
        assert "unreadable KV events" in caplog.text


async def test_a_replay_with_a_batch_that_cannot_be_read_goes_on() -> None:
    async with following() as (feed, publisher):
        publisher.kept += [batch(stored(0, 3)), b"\xc1", batch(stored(0, 2))]
        await until(lambda: feed.follower.next_number == 3)
        await until(lambda: feed.state is FeedState.LIVE)
        assert held(feed.follower.index) == 8


async def test_a_silent_publisher_is_said_and_its_index_emptied(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("prfaas.kv_events.feed._PROBE_S", 0.02)
    monkeypatch.setattr("prfaas.kv_events.feed._REPLAY_TIMEOUT_S", 0.05)
    async with following() as (feed, publisher):
        await publisher.publish(batch(stored(0)))
        await until(lambda: held(feed.follower.index) == 4)
        publisher.close()
        await until(lambda: feed.state is FeedState.SILENT)
        assert held(feed.follower.index) == 0
        assert "KV events stopped" in caplog.text


@pytest.mark.parametrize(
    "drops",
    [lambda n: n >= 10, lambda n: 10 <= n < 25, lambda n: n % 7 == 6],
    ids=["the rest", "a stretch", "now and then"],
)
async def test_what_a_slow_line_drops_is_asked_for_again_from_where_it_stopped(
    drops: Callable[[int], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prfaas.kv_events.feed._REPLAY_TIMEOUT_S", 0.2)
    async with following() as (feed, publisher):
        publisher.drops = drops
        publisher.kept += [batch(stored(0, 3))] + [batch()] * 60 + [batch(stored(3, 2))]
        await until(lambda: feed.state is FeedState.LIVE)
        assert held(feed.follower.index) == 20
        assert feed.follower.batches_total == 62  # Each was applied once.
        assert feed.follower.resets_total == 1  # When it began.


async def test_a_publisher_that_answers_late_is_given_longer_and_nothing_is_learned_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("prfaas.kv_events.feed._REPLAY_TIMEOUT_S", 0.05)
    async with following() as (feed, publisher):
        publisher.kept += [batch(stored(0, 3)), batch(stored(3, 2))]
        publisher.drops = lambda n: (
            n >= (1 if publisher.replays == 1 else 0) and (publisher.replays < 4)
        )
        await until(lambda: feed.state is FeedState.LIVE)
        assert held(feed.follower.index) == 20
        assert (feed.follower.batches_total, feed.follower.resets_total) == (2, 1)


async def test_a_publisher_that_needs_longer_is_waited_for_longer_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("prfaas.kv_events.feed._REPLAY_TIMEOUT_S", 0.05)
    async with following() as (feed, publisher):
        publisher.late_s = 0.3
        publisher.kept.append(batch(stored(0, 3)))
        await until(lambda: feed.state is FeedState.LIVE)
        assert held(feed.follower.index) == 12
