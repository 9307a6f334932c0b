"""What is told by names and keys leads to the same matches as the events themselves, and tells
neither tokens nor salts nor hashes."""

from __future__ import annotations

import random

import msgspec
import numpy as np
import pytest

from prfaas.index import keyed_blocks as module
from prfaas.index.cache_events import BlocksGone, BlocksKeyed, BlocksStored, KeyedEvent
from prfaas.index.engine_index import EngineIndex
from prfaas.index.keyed_blocks import KeyedBlocks, key_id
from prfaas.index.keys import BlockHasher, PromptKeys
from prfaas.index.prefix_index import PrefixIndex

BLOCK, SECRET, SALT = 4, b"a secret of the deployment", "salt-of-a-tenant"
TOKENS = [100_000 + 7 * n for n in range(400)]


def stored(first: int, count: int, *, group: int = 0, kind: str = "full_attention") -> BlocksStored:
    return BlocksStored(
        group=group,
        kind=kind,
        block_tokens=BLOCK,
        hashes=[2**63 + n for n in range(first, first + count)],
        parent=2**63 + first - 1 if first else None,
        token_ids=TOKENS[first * BLOCK : (first + count) * BLOCK],
        extra_keys=[[SALT] if n == 0 else [] for n in range(first, first + count)],
    )


class Both:
    """An index that is told events, and one that is told what an agent makes of them."""

    def __init__(self) -> None:
        self.direct, self.keyed = (PrefixIndex(max_blocks=2000, seed=SECRET) for _ in range(2))
        self.engine = self.direct.engine("e")
        self.far = self.keyed.engine("e")
        self.agent = KeyedBlocks(BlockHasher(SECRET), SECRET)
        self.told = b""

    def store(self, event: BlocksStored) -> None:
        self.engine.stored(event)
        self._tell(self.agent.stored(event))

    def remove(self, group: int | None, numbers: list[int]) -> None:
        hashes = [2**63 + n for n in numbers]
        self.engine.removed(group, hashes)
        self._tell(self.agent.removed(group, hashes))

    def _tell(self, event: KeyedEvent | None) -> None:
        if event is not None:
            self.told += msgspec.msgpack.encode(event)
            apply(self.far, event)

    def check(self) -> None:
        prompt = PromptKeys(TOKENS, salt=SALT)
        late = PrefixIndex(max_blocks=2000, seed=SECRET)
        engine = late.engine("e")
        for event in self.agent.snapshot():
            self.told += msgspec.msgpack.encode(event)
            apply(engine, event)
        wanted = self.direct.match(prompt)
        assert self.keyed.match(prompt) == wanted
        assert late.match(prompt) == wanted
        assert self.engine.blocks == self.far.blocks == engine.blocks == self.agent.blocks
        self.keyed.check_integrity()
        late.check_integrity()


def apply(engine: EngineIndex, event: KeyedEvent) -> None:
    if isinstance(event, BlocksKeyed):
        engine.stored_keyed(event)
    else:
        names = [
            int.from_bytes(event.names[at : at + 8], "little")
            for at in range(0, len(event.names), 8)
        ]
        engine.removed(event.group, names)


@pytest.mark.parametrize("seed", range(6))
def test_matches_are_those_of_the_events_themselves(seed: int) -> None:
    chance, both, held = random.Random(seed), Both(), 0
    states: set[int] = set()
    for _ in range(60):
        match chance.randrange(4):
            case 0 if held:
                gone = chance.randint(1, min(held, 5))  # An engine drops the ends of chains first.
                both.remove(0, list(range(held - gone, held)))
                held -= gone
            case 1 if held:
                at = chance.randrange(held)
                both.store(stored(at, 1, group=1, kind="mamba"))
                states.add(at)
            case 2 if states:
                both.remove(1, [states.pop()])
            case _ if held < 90:
                count = chance.randint(1, 8)
                both.store(stored(held, count))
                held += count
        both.check()


def test_nothing_that_is_told_names_a_token_a_salt_or_a_hash() -> None:
    both = Both()
    both.store(stored(0, 50))
    both.store(stored(49, 1, group=1, kind="mamba"))
    both.remove(None, [49])
    both.check()
    assert SALT.encode() not in both.told
    for number in (*TOKENS[:200], *(2**63 + n for n in range(50))):
        for size in (4, 8):
            if number < 1 << 8 * size:
                assert number.to_bytes(size, "little") not in both.told
                assert number.to_bytes(size, "big") not in both.told
    assert key_id(SECRET) != key_id(SECRET + b"2")


def test_another_secret_matches_nothing() -> None:
    index = PrefixIndex(max_blocks=100, seed=b"another")
    event = KeyedBlocks(BlockHasher(SECRET), SECRET).stored(stored(0, 3))
    assert isinstance(event, BlocksKeyed)
    apply(index.engine("e"), event)
    assert not index.match(PromptKeys(TOKENS, salt=SALT))
    other = KeyedBlocks(BlockHasher(SECRET), b"another").stored(stored(0, 3))
    assert isinstance(other, BlocksKeyed)
    assert other.names != event.names, "who knows an engine's hashes knows no names"


def test_what_cannot_be_placed_is_counted_and_not_told() -> None:
    agent = KeyedBlocks(BlockHasher(SECRET), SECRET)
    assert agent.stored(stored(3, 2)) is None
    assert agent.unplaced_blocks_total == 2
    assert agent.stored(stored(0, 1)) is not None
    assert list(agent.snapshot())[1].names == agent.removed(0, [2**63]).names


def test_of_whose_removals_are_lost_no_more_is_remembered_than_there_may_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Blocks that are held, and those before them that nobody holds."""
    monkeypatch.setattr(module, "_MOST_BLOCKS", 3)
    agent = KeyedBlocks(BlockHasher(SECRET), SECRET)
    assert agent.stored(stored(0, 2)) is not None
    assert agent.stored(stored(2, 2)) is None
    assert agent.stored(stored(2, 1)) is not None
    agent.removed(0, stored(0, 2).hashes)
    assert agent.blocks == 1
    assert agent.stored(stored(3, 1)) is None
    assert agent.stored(stored(0, 1, group=1, kind="mamba")) is None
    assert agent.unplaced_blocks_total == 4
    agent.removed(0, stored(2, 1).hashes)
    assert agent.stored(stored(0, 3)) is not None
    for number in range(4):
        agent.stored(stored(number, 1, group=1, kind="mamba"))
    assert agent.blocks == 3


def test_an_index_counts_what_makes_no_sense() -> None:
    engine = PrefixIndex(max_blocks=100, seed=SECRET).engine("e")
    good = KeyedBlocks(BlockHasher(SECRET), SECRET).stored(stored(0, 3))
    assert isinstance(good, BlocksKeyed)
    for bad in (
        msgspec.structs.replace(good, keys=b""),
        msgspec.structs.replace(good, parent=5),
        msgspec.structs.replace(good, block_tokens=8),
        msgspec.structs.replace(good, names=good.names[:8] * 3),
    ):
        before = engine.unplaced_blocks_total
        engine.stored_keyed(good if engine.blocks == 0 and before == 0 else bad)
        engine.stored_keyed(bad)
        assert engine.unplaced_blocks_total > before
    engine.removed(0, [1])
    assert isinstance(BlocksGone(0, b""), BlocksGone)


def test_keys_that_are_half_alike_are_not_placed() -> None:
    """By chance no two are: whoever tells such keys is wrong about them, and breaks nothing."""
    index = PrefixIndex(max_blocks=100, seed=b"seed")
    place = index.engine("e")

    def told(names: list[int], keys: list[int]) -> BlocksKeyed:
        return BlocksKeyed(
            group=0, kind="full_attention", block_tokens=4,
            names=np.array(names, np.uint64).tobytes(), keys=np.array(keys, np.uint64).tobytes(),
        )  # fmt: skip

    place.stored_keyed(told([1, 2], [10, 20, 11, 21]))
    for names, keys, unplaced in (
        ([3, 4], [10, 30, 99, 31], 2),
        ([3, 4, 5], [30, 20, 40, 31, 99, 41], 2),
        ([6, 7], [50, 50, 51, 52], 2),
        ([8], [20, 99], 1),
    ):
        before = place.unplaced_blocks_total
        place.stored_keyed(told(names, keys))
        assert place.unplaced_blocks_total == before + unplaced
        index.check_integrity()


def test_who_calls_a_block_by_ever_new_names_is_not_remembered_for_all_of_them() -> None:
    index = PrefixIndex(max_blocks=100, seed=b"seed")
    place = index.engine("e")
    for name in range(1, 1000):
        place.stored_keyed(
            BlocksKeyed(
                group=0, kind="full_attention", block_tokens=4,
                names=np.array([name], np.uint64).tobytes(),
                keys=np.array([10, 11], np.uint64).tobytes(),
            )
        )  # fmt: skip
        assert len(place._own_names) <= 101
    index.check_integrity()
    place.removed(0, [999])
    index.check_integrity()
    assert place.blocks == 0


def test_what_only_other_groups_hold_is_told_in_pieces_that_are_no_longer_than_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In one piece it would be longer than a frame may be, of half a million blocks."""
    monkeypatch.setattr(module, "_AT_ONCE", 10)
    monkeypatch.setattr(module, "_PORTION", 16)
    both = Both()
    both.store(stored(0, 90))
    both.store(stored(0, 90, group=1, kind="sliding_window"))
    both.remove(0, list(range(89, 4, -1)))
    both.check()
    assert max(len(event.names) for event in both.agent.snapshot()) == 10 * 8


def test_no_more_is_looked_at_for_a_piece_than_a_portion(monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent carries streams meanwhile: of half a million blocks it took a second."""
    monkeypatch.setattr(module, "_PORTION", 16)
    looked, runs = list[int](), module._runs
    monkeypatch.setattr(
        module, "_runs", lambda names, placed: looked.append(len(names)) or runs(names, placed)
    )
    both = Both()
    for first in range(0, 90, 30):
        both.store(stored(first, 30))
    both.check()
    assert looked == [16, 16, 16, 16, 16, 10]
