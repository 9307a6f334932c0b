"""What one engine holds, told without a token: blocks by secret names and keys.

An engine's events name tokens and salts. `KeyedBlocks` takes them where they are made, on the
engine's machine, and makes of them what an index elsewhere needs: each full-attention block's key
(`keys`), and the engine's hash of it under a keyed digest, since that hash itself is one of the
tokens alone and could be guessed. It remembers what is held, so that all of it can be told to who
comes late.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from prfaas.index.cache_events import BlocksGone, BlocksKeyed, BlocksStored, KeyedEvent
from prfaas.index.keys import BlockHasher, Keys, Place, encode_extra
from prfaas.index.matching import CHAINED_KINDS
from prfaas.index.words import BlockHash, word_of

_MOST_BLOCKS = 1 << 23
"""Of one engine, in blocks of 16 tokens 128 million: none has room for so many. Whose removals are
lost would be remembered without end."""
_AT_ONCE = 2048
"""Blocks of one piece of a snapshot: 50 KB."""
_PORTION = 8192
"""Blocks that are looked through for those that follow each other: ten milliseconds."""


class _Placed:
    """A full-attention block: there while something holds it or one that follows it."""

    __slots__ = ("children", "parent", "place")

    def __init__(self, place: Place, parent: int | None) -> None:
        self.place, self.parent, self.children = place, parent, 0


class _Group(NamedTuple):
    kind: str
    block_tokens: int
    window_tokens: int | None
    held: dict[int, None]


class KeyedBlocks:
    """What one engine holds; its events in, keyed ones out.

    Args:
        hasher: of the deployment's cache key.
        key: the same key, for names.
    """

    def __init__(self, hasher: BlockHasher, key: bytes) -> None:
        self._hasher = hasher
        self._key = hashlib.blake2b(key, digest_size=32, person=b"prfaas-names").digest()
        self.unplaced_blocks_total = 0
        self._groups: dict[int, _Group] = {}
        self._placed: dict[int, _Placed] = {}
        self._block_tokens: int | None = None

    @property
    def blocks(self) -> int:
        """Held over all groups."""
        return sum(len(group.held) for group in self._groups.values())

    def clear(self) -> None:
        """The engine dropped everything, restarted, or cannot be followed any more."""
        self._groups.clear()
        self._placed.clear()
        self._block_tokens = None

    def stored(self, event: BlocksStored) -> KeyedEvent | None:
        """Blocks were cached; what is to be told, None where they could not be placed."""
        if max(self.blocks, len(self._placed)) + len(event.hashes) > _MOST_BLOCKS:
            self.unplaced_blocks_total += len(event.hashes)
            return None
        chained = event.kind in CHAINED_KINDS
        names = [self._name(block_hash) for block_hash in event.hashes]
        if chained and self._block_tokens is None:
            self._block_tokens = event.block_tokens
        parent = None if event.parent is None else self._name(event.parent)
        keys = self._keys(event, parent) if chained else None
        if chained and keys is None:
            self.unplaced_blocks_total += len(names)
            return None
        group = self._groups.get(event.group)
        if group is None:
            group = _Group(event.kind, event.block_tokens, event.window_tokens, {})
            self._groups[event.group] = group
        group.held.update(dict.fromkeys(names))
        if keys is not None:
            self._place(names, keys, parent)
        return _event(event.group, group, names, parent, keys)

    def removed(self, group: int | None, hashes: Sequence[BlockHash]) -> KeyedEvent:
        """Blocks were dropped from one group (None: from every group); what is to be told."""
        names = [self._name(block_hash) for block_hash in hashes]
        among = [self._groups[group]] if group in self._groups else []
        for one in self._groups.values() if group is None else among:
            for name in names:
                one.held.pop(name, None)
        for name in names:
            self._let_go(name)
        return BlocksGone(group, array("Q", names).tobytes())

    def snapshot(self) -> Iterator[KeyedEvent]:
        """All that is held as it is now, in an order in which an index can take it; it may be told
        slowly, while more happens."""
        copies = [(n, g, g.held.copy()) for n, g in sorted(self._groups.items())]
        return _pieces(copies, dict(self._placed))

    def _is_held(self, name: int) -> bool:
        return any(name in group.held for group in self._groups.values())

    def _let_go(self, name: int | None) -> None:
        """Forget a block that nothing holds, and those before it that are there for it alone."""
        while name is not None and (placed := self._placed.get(name)) is not None:
            if placed.children or self._is_held(name):
                return
            del self._placed[name]
            name = placed.parent
            if name is not None:
                self._placed[name].children -= 1

    def _keys(self, event: BlocksStored, parent: int | None) -> Keys | None:
        size, count, extras = self._block_tokens, len(event.hashes), event.extra_keys
        assert size is not None
        place: Place | None = self._hasher.root(size)
        if parent is not None:
            known = self._placed.get(parent)
            place = known.place if known is not None and self._is_held(parent) else None
        sound = event.block_tokens == size and len(event.token_ids) == size * count
        sound = sound and (not extras or len(extras) == count)
        if place is None or not sound or not count or len(set(event.hashes)) != count:
            return None
        tokens = np.frombuffer(array("I", event.token_ids), np.uint32)
        encoded = [encode_extra(extra) for extra in extras] if extras else ()
        return self._hasher.extend(place, tokens, size, encoded)

    def _place(self, names: list[int], keys: Keys, parent: int | None) -> None:
        depth = 0 if parent is None else self._placed[parent].place.depth
        for name, low, high in zip(names, keys.low.tolist(), keys.high.tolist(), strict=True):
            depth += 1
            if name not in self._placed:
                self._placed[name] = _Placed(Place(low, high, depth), parent)
                if parent is not None:
                    self._placed[parent].children += 1
            parent = name

    def _name(self, block_hash: BlockHash) -> int:
        word = word_of(block_hash).to_bytes(8, "little")
        digest = hashlib.blake2b(word, digest_size=8, key=self._key).digest()
        return int.from_bytes(digest, "little")


def key_id(key: bytes) -> str:
    """Tells keys apart, and ways to make use of them, and nothing of either."""
    return hashlib.blake2b(key, digest_size=8, person=b"prfaas-key-id-2").hexdigest()


def _event(
    number: int, group: _Group, names: list[int], parent: int | None, keys: Keys | None
) -> BlocksKeyed:
    return BlocksKeyed(
        group=number,
        kind=group.kind,
        block_tokens=group.block_tokens,
        window_tokens=group.window_tokens,
        names=array("Q", names).tobytes(),
        parent=parent,
        keys=b"" if keys is None else np.array(keys, np.uint64).tobytes(),
    )


def _pieces(
    groups: list[tuple[int, _Group, dict[int, None]]], placed: dict[int, _Placed]
) -> Iterator[KeyedEvent]:
    """No piece takes long, however much is held: parents are in ``placed`` before what follows."""
    for number, group, _ in groups:  # An empty one matters, too: it says what is not held.
        yield _event(number, group, [], None, None)
    only_elsewhere: list[BlocksGone] | None = None
    for number, group, held in groups:
        if group.kind not in CHAINED_KINDS:
            for part in _parts(list(held), _AT_ONCE):
                yield _event(number, group, part, None, None)
            continue
        # Where the blocks are that only other groups hold is known by the first of these.
        first, others = only_elsewhere is None, list[int]()
        for portion in _parts(list(placed), _PORTION):
            others += [name for name in portion if name not in held] if first else ()
            told = portion if first else [name for name in portion if name in held]
            for run in _runs(told, placed):
                for part in _parts(run, _AT_ONCE):
                    places = np.array([placed[name].place[:2] for name in part], np.uint64).T
                    keys = Keys(places[0], places[1])
                    yield _event(number, group, part, placed[part[0]].parent, keys)
        if first:
            gone = _parts(others, _AT_ONCE)
            only_elsewhere = [BlocksGone(number, array("Q", part).tobytes()) for part in gone]
    yield from only_elsewhere or ()


def _parts(names: list[int], at_once: int) -> Iterator[list[int]]:
    return (names[start : start + at_once] for start in range(0, len(names), at_once))


def _runs(names: list[int], placed: dict[int, _Placed]) -> list[list[int]]:
    """Blocks that follow each other; in ``names`` parents are first."""
    runs: dict[int, list[int]] = {}  # By the last block.
    found: list[list[int]] = []
    for name in names:
        parent = placed[name].parent
        run = None if parent is None else runs.pop(parent, None)
        if run is None:
            run = []
            found.append(run)
        run.append(name)
        runs[name] = run
    return found
