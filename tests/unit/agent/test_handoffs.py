"""Exports, receptions and imports of two agents over the in-memory link: no threads, no sockets."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import pytest

from prfaas.agent.arena import Arena
from prfaas.agent.driver import PoolDriver
from prfaas.agent.link_port import LinkPort
from prfaas.agent.service import SWEEP_PERIOD_S
from prfaas.core.errors import EngineError
from prfaas.core.extents import Extent
from prfaas.core.gateway_sessions import LAPSES_AFTER_S, Renewal
from prfaas.core.layout import KvGroup, KvLayout, LayerLayout
from prfaas.pool.books import PoolSnapshot
from prfaas.pool.effects import (
    AnnounceTransfer,
    AnswerImport,
    AnyEffect,
    FailImport,
    GrantSlots,
    StopExport,
)
from prfaas.pool.events import (
    AnyEvent,
    ConnectionClosed,
    EngineConnected,
    ExportAborted,
    ExportBegun,
    ExportFinished,
    GatewayRenewed,
    ImportClosed,
    ImportOpened,
    SlotFilled,
    SlotsRequested,
    SlotsReturned,
    TimePassed,
    TransferCancelled,
)
from prfaas.pool.imports import UNKNOWN_WAIT_S
from prfaas.pool.pool import Pool
from prfaas.pool.records import KEEP_S
from prfaas.pool.stalls import PATIENCE, STALL_S
from prfaas.testing.memory_link import MemoryNetwork
from prfaas.testing.mock_engine_rank import MOCK_DIGEST, READERS

SLOT, COUNT, EXPORT = 4096, 16, 6
ENGINE, READER = 1, 2


def layout(dtype: str = "bfloat16") -> KvLayout:
    layer = LayerLayout(name="l0", index=0, page_bytes=64, dtype=dtype, shape=(64,))
    return KvLayout(
        model="m", groups=(KvGroup(kind="full_attention", block_tokens=16, layers=(layer,)),)
    )


class Side:
    """One agent without its sockets, and what it told its engines."""

    def __init__(self, name: str, network: MemoryNetwork) -> None:
        self.posted: deque[Callable[[], None]] = deque()
        self.now = 0.0
        self.arena = Arena(name, SLOT * COUNT)
        pool = Pool(
            name,
            slot_bytes=SLOT,
            slot_count=COUNT,
            export_slots=EXPORT,
            engines=frozenset({"a", "b"}),
        )
        self.driver = PoolDriver(
            pool,
            post=self.posted.append,
            copy=self.arena.copy,
            monotonic=lambda: self.now,
            unix_time=lambda: 1000.0 + self.now,
        )
        self.port = LinkPort(self.driver, self.arena.view, SLOT)
        self.port.connect(network.link(name, self.port))
        self.told: list[AnyEffect] = []
        self.granted: dict[int, list[int]] = {ENGINE: [], READER: []}
        for kind in (StopExport, AnswerImport, FailImport):
            self.driver.carry_out(kind, self.told.append)
        self.driver.carry_out(GrantSlots, lambda e: self.granted[e.connection].extend(e.slots))
        self.driver.carry_out(AnnounceTransfer, lambda _: None)
        self.connect("bfloat16")

    def connect(self, dtype: str) -> None:
        self.say(EngineConnected(ENGINE, "a", 10, layout(dtype)))
        self.say(EngineConnected(READER, "b", 11, layout(dtype)))

    def say(self, event: AnyEvent) -> None:
        self.driver.handle(event)
        self.run()

    def run(self) -> None:
        while self.posted:
            self.posted.popleft()()

    @property
    def pool(self) -> PoolSnapshot:
        return self.driver.snapshot()

    def begin(self, transfer_id: str, size: int, to: str, deadline_s: float = 60.0) -> None:
        self.say(
            ExportBegun(ENGINE, transfer_id, to, 0, 16, size, deadline_s, MOCK_DIGEST, READERS)
        )

    def finish(self, transfer_id: str) -> None:
        self.port.report_progress(transfer_id)
        self.say(ExportFinished(ENGINE, transfer_id))

    def lease(self, count: int = 1, connection: int = ENGINE) -> list[int]:
        """What is granted, now or later."""
        granted = self.granted[connection] = []
        self.say(SlotsRequested(connection, count))
        return granted

    def fill(self, transfer_id: str, content: bytes, flat: int = 0, at: int = 0) -> int:
        """Lease a slot, fill it with the content's bytes from ``flat`` on, hand it over."""
        (slot,) = self.lease()
        part = content[flat : flat + SLOT - at]
        offset = slot * SLOT + at
        self.arena.view[offset : offset + len(part)] = part
        self.say(SlotFilled(ENGINE, transfer_id, slot, (Extent(flat, offset, len(part)),)))
        return len(part)

    def fill_all(self, transfer_id: str, content: bytes, at: int = 0) -> None:
        flat = 0
        while flat < len(content):
            flat += self.fill(transfer_id, content, flat, at)

    def open(self, transfer_id: str, size: int, **other: int) -> None:
        self.say(
            ImportOpened(READER, transfer_id, other.get("from_token", 0), 16, size, MOCK_DIGEST)
        )

    def close(self, transfer_id: str) -> None:
        self.say(ImportClosed(READER, transfer_id))

    def cancel(self, transfer_id: str) -> None:
        self.say(TransferCancelled(transfer_id))

    def read(self) -> bytes:
        ready = [effect for effect in self.told if isinstance(effect, AnswerImport)][-1]
        return b"".join(self.arena.view[e.arena_offset : e.arena_end] for e in ready.extents)

    def expire(self, now: float) -> None:
        self.now = now
        self.port.report_progress()
        self.say(TimePassed())

    def check_free(self) -> None:
        self.run()
        self.driver.check_integrity()
        assert self.pool.slots.free == COUNT, self.pool


class Pair:
    def __init__(self) -> None:
        self.network = MemoryNetwork(chunk_bytes=1000)
        self.east, self.west = Side("east", self.network), Side("west", self.network)

    def pump(self, chunks: int | None = None) -> None:
        self.network.pump(chunks)
        self.east.run()
        self.west.run()


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    for side in (pair.east, pair.west):
        side.run()
        side.driver.check_integrity()
        side.arena.close()


def content(size: int) -> bytes:
    return bytes(i * 7 % 253 for i in range(size))


def view(side: Side, transfer_id: str):  # type: ignore[no-untyped-def]
    side.port.report_progress(transfer_id)
    return side.driver.transfer(transfer_id, ranks=1)


def test_remote_hand_off(pair: Pair) -> None:
    data = content(3 * SLOT + 100)
    pair.east.begin("x", len(data), "west")
    pair.east.fill_all("x", data)
    pair.pump(2)
    assert view(pair.west, "x")[0].state == "receiving"
    pair.east.finish("x")
    pair.pump()
    sent = view(pair.east, "x")[0].sent
    assert sent.state == "complete"
    assert sent.bytes_acknowledged == len(data)
    assert sent.bytes_acknowledged_at_export_end == 2000
    pair.east.check_free()
    pair.west.open("x", len(data))
    assert pair.west.read() == data
    assert view(pair.west, "x") == (view(pair.west, "x")[0], True)
    pair.west.cancel("x")
    assert pair.west.pool.slots.held == 4, "an import has the pieces open"
    pair.west.close("x")
    pair.west.check_free()


@pytest.mark.parametrize("at", [0, 3000])
def test_local_hand_off(pair: Pair, at: int) -> None:
    """Also when the engine fills its slots sparsely: their bytes are packed."""
    data = content(3 * SLOT + 100)
    pair.west.begin("x", len(data), "west")
    pair.west.open("x", len(data))
    pair.west.fill_all("x", data, at=at)
    assert pair.west.read() == data
    assert pair.west.pool.slots.held == 4
    pair.west.finish("x")
    found, over = view(pair.west, "x")
    assert over
    assert found.state == found.sent.state == "complete"
    assert found.sent.bytes_acknowledged == found.bytes_stored == len(data)
    pair.west.close("x")
    pair.west.cancel("x")
    pair.west.check_free()


def test_bytes_handed_over_twice_count_once(pair: Pair) -> None:
    """A preempted prefill exports its first blocks again."""
    data = content(2 * SLOT)
    pair.east.begin("x", len(data), "west")
    pair.east.fill("x", data)
    pair.east.fill("x", data)
    pair.east.fill("x", data, flat=SLOT // 2)
    pair.east.fill("x", data, flat=SLOT)
    pair.pump()
    pair.east.finish("x")
    assert view(pair.east, "x")[0].sent.state == "complete"
    assert pair.west.pool.counters.received_bytes == len(data)
    pair.east.check_free()


def test_local_hand_offs_wait_for_memory_in_order(pair: Pair) -> None:
    large, small = content(8 * SLOT), content(3 * SLOT)
    pair.west.begin("one", len(large), "west")
    pair.west.begin("two", len(small), "west")
    pair.west.fill_all("two", small)
    pair.west.fill_all("one", large)
    pair.west.finish("one")
    assert view(pair.west, "two")[0].state == "unknown"
    pair.west.open("two", len(small))
    pair.west.cancel("one")
    pair.west.run()
    assert pair.west.read() == small


def test_remote_offer_is_retried_until_there_is_room(pair: Pair) -> None:
    large, small = content(8 * SLOT), content(3 * SLOT)
    pair.east.begin("one", len(large), "west")
    pair.pump()
    pair.east.begin("two", len(small), "west")
    pair.east.fill_all("two", small)
    pair.pump()
    assert view(pair.west, "two")[0].state == "unknown"
    pair.east.cancel("one")
    pair.pump()
    assert view(pair.west, "two")[0].state == "complete"
    assert view(pair.west, "one")[0].state == "failed"


def test_a_sender_is_told_that_its_transfer_is_wanted_no_more(pair: Pair) -> None:
    data = content(3 * SLOT)
    pair.east.begin("x", len(data), "west")
    pair.east.fill_all("x", data)
    pair.pump(1)
    pair.west.cancel("x")
    pair.west.run()
    pair.east.run()
    assert view(pair.east, "x")[0].sent.reason == "cancelled"
    assert pair.network.pump() == 0
    pair.east.finish("x")
    pair.east.check_free()
    pair.west.check_free()


def test_a_transfer_given_up_before_there_was_room_is_failed(pair: Pair) -> None:
    pair.east.begin("one", 8 * SLOT, "west")
    pair.pump()
    pair.east.begin("two", 3 * SLOT, "west")
    pair.pump()
    pair.east.cancel("two")
    pair.pump()
    found, over = view(pair.west, "two")
    assert (found.state, over) == ("failed", True)


def test_too_large_is_refused_for_good(pair: Pair) -> None:
    for destination in ("west", "east"):
        pair.east.begin("big-" + destination, 11 * SLOT, destination)
        pair.pump()
        stopped = pair.east.told[-1]
        assert isinstance(stopped, StopExport)
        assert "at most 10 are for receptions" in stopped.reason


def test_other_layout_is_refused(pair: Pair) -> None:
    pair.west.say(ConnectionClosed(ENGINE))
    pair.west.say(ConnectionClosed(READER))
    pair.west.connect("float16")
    pair.east.begin("x", SLOT, "west")
    pair.pump()
    assert "layout" in pair.east.told[-1].reason  # type: ignore[union-attr]


def test_export_that_its_engine_leaves_incomplete_fails_everywhere(pair: Pair) -> None:
    data = content(2 * SLOT)
    for transfer_id, destination in (("r", "west"), ("l", "east")):
        pair.east.begin(transfer_id, len(data), destination)
        pair.east.fill(transfer_id, data)
        pair.pump()
        pair.east.finish(transfer_id)
        pair.pump()
        assert "4096 bytes missing" in view(pair.east, transfer_id)[0].sent.reason
    assert "4096 bytes missing" in view(pair.west, "r")[0].reason
    pair.east.check_free()
    pair.west.check_free()


@pytest.mark.parametrize("destination", ["west", "east"])
def test_engine_dies_mid_export(pair: Pair, destination: str) -> None:
    data = content(3 * SLOT)
    pair.east.begin("x", len(data), destination)
    pair.east.fill("x", data)
    pair.east.lease(3)
    pair.pump(1)
    pair.east.say(ConnectionClosed(ENGINE))
    pair.pump()
    pair.east.check_free()
    pair.west.check_free()
    assert "went away" in view(pair.east, "x")[0].sent.reason


@pytest.mark.parametrize("destination", ["west", "east"])
def test_what_is_complete_stays_so(pair: Pair, destination: str) -> None:
    """An abort or a death of the engine that exported it comes too late."""
    data = content(SLOT)
    for transfer_id in ("aborted", "orphaned"):
        pair.east.begin(transfer_id, len(data), destination)
        pair.east.fill(transfer_id, data)
    pair.pump()
    pair.east.say(ExportAborted(ENGINE, "aborted", "client left"))
    pair.east.say(ConnectionClosed(ENGINE))
    receiver = pair.east if destination == "east" else pair.west
    for transfer_id in ("aborted", "orphaned"):
        receiver.open(transfer_id, len(data))
        assert receiver.read() == data
    assert pair.east.pool.exports == 0


def test_an_engine_that_never_ends_its_export_is_forgotten(pair: Pair) -> None:
    pair.east.begin("x", SLOT, "west")
    pair.east.cancel("x")
    pair.east.run()
    assert pair.east.pool.exports == 1
    pair.east.expire(60.0)
    assert pair.east.pool.exports == 0


def test_engine_dies_mid_import(pair: Pair) -> None:
    data = content(SLOT)
    pair.west.begin("x", len(data), "west")
    pair.west.fill("x", data)
    pair.west.open("x", len(data))
    pair.west.open("other", 5)
    pair.west.cancel("x")
    pair.west.say(ConnectionClosed(READER))
    pair.west.check_free()
    assert pair.west.pool.imports == 0


def test_deadline_frees_what_nobody_reads(pair: Pair) -> None:
    data = content(SLOT)
    pair.west.begin("read", len(data), "west", deadline_s=5)
    pair.west.fill("read", data)
    pair.west.open("read", len(data))
    pair.west.begin("left", len(data), "west", deadline_s=5)
    pair.west.fill("left", data)
    pair.west.begin("half", 2 * len(data), "west", deadline_s=5)
    pair.west.fill("half", data)
    pair.west.expire(5.0)
    assert pair.west.pool.slots.held == 1
    assert pair.west.read() == data
    assert view(pair.west, "half")[0].reason == "deadline passed"
    pair.west.close("read")
    pair.west.check_free()


def test_stall_ends_with_the_export_that_nobody_takes(pair: Pair) -> None:
    """The share of exports is full of a transfer whose receiver has no room."""
    pair.west.begin("hog", 10 * SLOT, "west")
    data = content(8 * SLOT)
    pair.east.begin("x", len(data), "west")
    for flat in range(0, EXPORT * SLOT, SLOT):
        pair.east.fill("x", data, flat)
    pair.pump()
    granted = pair.east.lease()
    assert not granted
    pair.east.expire(STALL_S)
    assert "memory ran out" in view(pair.east, "x")[0].sent.reason
    assert isinstance(pair.east.told[-1], StopExport)
    assert len(granted) == 1


def test_a_slow_line_is_no_stall_for_a_while(pair: Pair) -> None:
    """Every receiver has taken something: more patience, and a reason that is true."""
    data = content(8 * SLOT)
    pair.east.begin("x", len(data), "west")
    for flat in range(0, EXPORT * SLOT, SLOT):
        pair.east.fill("x", data, flat)
    pair.pump(1)
    granted = pair.east.lease()
    late = PATIENCE * STALL_S
    pair.east.expire(late - 0.1)
    assert view(pair.east, "x")[0].sent.state == "sending"
    pair.east.expire(late)
    reason = view(pair.east, "x")[0].sent.reason
    assert reason == "agent west let no memory come free for 6 s"
    assert len(granted) == 1


@pytest.mark.parametrize("complete", [True, False])
def test_a_long_transfer_is_remembered_from_its_end_on(pair: Pair, complete: bool) -> None:
    data = content(SLOT)
    pair.east.begin("x", len(data), "west", deadline_s=1000.0)
    pair.pump()
    pair.east.now = pair.west.now = 500.0
    if complete:
        pair.east.fill("x", data)
    else:
        pair.east.cancel("x")
    pair.pump()
    for side in (pair.east, pair.west):
        side.expire(500.0 + KEEP_S)
    ended = "complete" if complete else "failed"
    assert view(pair.west, "x")[0].state == ended
    assert view(pair.east, "x")[0].sent.state == ended


def test_imports_of_what_is_not_there(pair: Pair) -> None:
    pair.west.open("unknown", 5)
    assert not pair.west.told
    pair.west.expire(UNKNOWN_WAIT_S)
    assert pair.west.told == [FailImport(READER, "unknown", "no such transfer here")]
    pair.west.begin("x", SLOT, "west")
    pair.west.fill("x", content(SLOT))
    pair.west.open("x", SLOT + 1)
    assert "total_bytes differs" in pair.west.told[-1].reason  # type: ignore[union-attr]
    pair.west.open("x", SLOT, from_token=1)
    assert "from_token differs" in pair.west.told[-1].reason  # type: ignore[union-attr]


def test_cancelled_before_it_began(pair: Pair) -> None:
    for side in (pair.east, pair.west):
        side.cancel("x")
    pair.east.begin("x", 5, "west")
    assert pair.east.told == [StopExport(ENGINE, "x", "cancelled")]
    assert view(pair.west, "x")[1]


@pytest.mark.parametrize(
    ("transfer_id", "size", "to", "deadline_s", "reason"),
    [
        ("../x", 5, "west", 1.0, "a transfer id is"),
        ("x", 0, "west", 1.0, "nothing to transfer"),
        ("x", 5, "nowhere", 1.0, "no peer 'nowhere'"),
        ("x", 5, "west", float("nan"), "deadline_s nan"),
        ("x", 5, "west", 0.0, "deadline_s 0"),
    ],
)
def test_bad_exports(
    pair: Pair, transfer_id: str, size: int, to: str, deadline_s: float, reason: str
) -> None:
    pair.east.begin(transfer_id, size, to, deadline_s)
    (stopped,) = pair.east.told
    assert isinstance(stopped, StopExport)
    assert reason in stopped.reason


@pytest.mark.parametrize(
    "extent",
    [
        Extent(0, 0, SLOT + 1),
        Extent(0, SLOT, 1),
        Extent(-1, 0, 5),
        Extent(0, 0, 0),
        Extent(99, 0, 2),
    ],
)
def test_extents_out_of_bounds_are_the_engines_fault(pair: Pair, extent: Extent) -> None:
    pair.east.begin("x", 100, "west")
    assert pair.east.lease() == [0]
    with pytest.raises(EngineError):
        pair.east.say(SlotFilled(ENGINE, "x", 0, (extent,)))
    with pytest.raises(EngineError, match="not leased"):
        pair.east.say(SlotFilled(READER, "x", 0, (Extent(0, 0, 1),)))
    pair.east.say(ConnectionClosed(ENGINE))
    assert pair.east.pool.slots.free == COUNT


def test_leases_are_given_in_turn(pair: Pair) -> None:
    assert pair.east.lease(100) == [0, 1, 2], "half of the export share"
    assert pair.east.lease(100) == [3, 4, 5]
    first, second = pair.east.lease(1, READER), pair.east.lease(1, ENGINE)
    pair.east.say(SlotsReturned(ENGINE, (0,)))
    assert (first, second) == ([0], [])
    with pytest.raises(EngineError):
        pair.east.say(SlotsReturned(ENGINE, (0,)))
    pair.east.say(ConnectionClosed(ENGINE))
    assert pair.east.pool.lease_waiters == 0


FREE_WITHIN_S = 10.0
"""After a gateway was killed: what operators are told."""


@pytest.mark.parametrize("killed_before_a_sweep_s", [0.0, 0.1, SWEEP_PERIOD_S - 0.001])
def test_what_a_killed_gateway_leaves_is_free_within_ten_seconds(
    pair: Pair, killed_before_a_sweep_s: float
) -> None:
    """On both sides, whatever stage its hand-offs were in, though they might take an hour."""
    gateway, data = "0123456789ab", content(2 * SLOT)
    sides = (pair.east, pair.west)
    for side in sides:
        side.expire(100.0)
        side.now += SWEEP_PERIOD_S - killed_before_a_sweep_s
        side.say(GatewayRenewed(gateway, Renewal(name="gateway-3")))
    killed_at = pair.east.now
    for number, destination in enumerate(("west", "east", "west")):
        pair.east.begin(f"{gateway}-r{number}-1", len(data), destination, deadline_s=3600.0)
    arrived, beside, arriving = (f"{gateway}-r{number}-1" for number in range(3))
    for name in (arrived, beside):
        pair.east.fill_all(name, data)
        pair.east.finish(name)
        pair.pump()
    pair.east.fill(arriving, data)
    pair.pump(2)
    assert view(pair.west, arrived)[0].state == "complete"
    assert view(pair.west, arriving)[0].state == "receiving"
    sweeps = 0
    while any(side.pool.slots.free < COUNT for side in sides):
        sweeps += 1
        for side in sides:
            side.expire(100.0 + (1 + sweeps) * SWEEP_PERIOD_S)
        pair.pump()
        assert pair.east.now - killed_at <= FREE_WITHIN_S
    assert pair.east.now - killed_at >= LAPSES_AFTER_S, "one that is only slow loses nothing"
    for side in sides:
        side.check_free()
