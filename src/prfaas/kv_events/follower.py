"""vLLM's batches of KV events, read and applied to an engine's index in their order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Protocol

import msgspec

from prfaas.core.errors import UNREADABLE, EngineError
from prfaas.index.cache_events import (
    BlocksStored,
    BlockTokens,
    GroupIndex,
    Kind,
    WindowTokens,
)
from prfaas.index.words import BlockHash

_OWN_MEDIA = (None, "GPU")
"""Where the engine's own cache lies (so it says on CPUs too); offloaded copies do not count."""

_AT_ONCE = 512
"""Blocks that are applied in one go: some milliseconds. One event may be of 128K tokens."""
_TokenId = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]


class _Stored(msgspec.Struct, frozen=True, tag="BlockStored"):
    block_hashes: list[int | bytes]
    parent_block_hash: int | bytes | None
    token_ids: list[_TokenId]
    block_size: BlockTokens
    medium: str | None = None
    extra_keys: list[Any] | None = None
    group_idx: GroupIndex | None = None
    kv_cache_spec_kind: Kind | None = None
    kv_cache_spec_sliding_window: WindowTokens | None = None


class _Removed(msgspec.Struct, frozen=True, tag="BlockRemoved"):
    block_hashes: list[int | bytes]
    medium: str | None = None
    group_idx: GroupIndex | None = None


class _Cleared(msgspec.Struct, frozen=True, tag="AllBlocksCleared"):
    pass


class _Batch(msgspec.Struct, frozen=True, array_like=True):
    ts: float
    events: list[_Stored | _Removed | _Cleared]


_DECODER = msgspec.msgpack.Decoder(_Batch)


class BlockSink(Protocol):
    """Whoever is told what an engine holds: an `EngineIndex`, or what keeps it for others."""

    @property
    def blocks(self) -> int:
        """Hashes held over all groups."""

    @property
    def unplaced_blocks_total(self) -> int:
        """Blocks that could not be placed."""

    def clear(self) -> None:
        """The engine dropped everything, restarted, or cannot be followed any more."""

    def leave(self) -> None:
        """The engine has left for good."""

    def stored(self, event: BlocksStored) -> None:
        """Blocks were cached."""

    def removed(self, group_index: int | None, hashes: Sequence[BlockHash]) -> None:
        """Blocks were dropped from one group (None: from every group)."""


class KvEventFollower:
    """The order of batches, without the sockets: what to apply, and when to ask for a replay."""

    def __init__(self, index: BlockSink) -> None:
        self.index = index
        self.next_number = 0
        self.batches_total = 0
        self.resets_total = 0
        self.unreadable_total = 0
        self._last_ts = 0.0
        self._rest: Iterator[None] = iter(())

    def restart(self) -> None:
        """Forget everything: the engine restarted, or cannot be followed without a hole."""
        self._rest = iter(())
        self.index.clear()
        self.next_number = 0
        self._last_ts = 0.0
        self.resets_total += 1

    def leave(self) -> None:
        """The engine is gone for good: its place in the index is given back."""
        self.index.leave()

    def take(self, number: int, payload: bytes) -> bool:
        """Apply a live batch if it is the next one. False: ask for a replay from `next_number`.

        Raises EngineError for a batch that is not what vLLM sends.
        """
        self._finish()
        batch = _decode(payload)
        if number < self.next_number:
            if batch.ts <= self._last_ts:
                return True  # Seen in a replay already.
            self.restart()  # A new publisher numbers from 0 again.
        if number != self.next_number:
            return False
        self._apply(number, batch)
        return True

    def take_replayed(self, number: int, payload: bytes) -> None:
        """Apply a batch of a replay. What is older than the publisher's memory is lost: then the
        index starts from empty."""
        self._finish()
        if number < self.next_number:
            return
        if number > self.next_number:
            self.restart()
        self._apply(number, _decode(payload))

    def skip(self, number: int) -> None:
        """A batch cannot be read. What it removed is not known, so the index starts from empty; the
        next batch is one like any other."""
        self._finish()
        self.unreadable_total += 1
        if number >= self.next_number:
            self.index.clear()
            self.next_number = number + 1
            self.resets_total += 1

    def go_on(self) -> bool:
        """Apply more of the last batch; False where all of it is. What else is taken first takes
        the rest."""
        return next(self._rest, self) is not self

    def _finish(self) -> None:
        while self.go_on():
            pass

    def _apply(self, number: int, batch: _Batch) -> None:
        self._rest = self._steps(number, batch)
        self.go_on()

    def _steps(self, number: int, batch: _Batch) -> Iterator[None]:
        """Apply it, with a pause wherever many blocks were applied and more are to come, and before
        a long event: to read it has taken its time."""
        stored = [event for event in batch.events if isinstance(event, _Stored)]
        long = any(len(event.block_hashes) > _AT_ONCE for event in stored)
        applied = _AT_ONCE if long else 0
        for event in batch.events:
            if isinstance(event, _Cleared):
                self.index.clear()
            elif event.medium not in _OWN_MEDIA:
                continue
            elif isinstance(event, _Stored):
                for piece in _pieces(_stored(event)):
                    if applied >= _AT_ONCE:
                        applied = 0
                        yield
                    self.index.stored(piece)
                    applied += len(piece.hashes)
            else:
                self.index.removed(event.group_idx, event.block_hashes)
        self.next_number, self._last_ts = number + 1, batch.ts
        self.batches_total += 1


def _decode(payload: bytes) -> _Batch:
    try:
        return _DECODER.decode(payload)
    except UNREADABLE as error:
        raise EngineError(f"unreadable KV events: {error}") from error


def _pieces(event: BlocksStored) -> Iterator[BlocksStored]:
    """The same in several events, where it is long and what it says of each block is plain."""
    count, size, extras = len(event.hashes), event.block_tokens, event.extra_keys
    plain = len(event.token_ids) == size * count and (not extras or len(extras) == count)
    if count <= _AT_ONCE or not plain:
        yield event
        return
    parent = event.parent
    for start in range(0, count, _AT_ONCE):
        end = start + _AT_ONCE
        hashes = event.hashes[start:end]
        yield msgspec.structs.replace(
            event,
            hashes=hashes,
            parent=parent,
            token_ids=event.token_ids[start * size : end * size],
            extra_keys=extras[start:end] if extras else None,
        )
        parent = hashes[-1]


def _stored(event: _Stored) -> BlocksStored:
    return BlocksStored(
        group=event.group_idx or 0,
        kind=event.kv_cache_spec_kind or "full_attention",
        block_tokens=event.block_size,
        hashes=event.block_hashes,
        parent=event.parent_block_hash,
        token_ids=event.token_ids,
        extra_keys=event.extra_keys,
        window_tokens=event.kv_cache_spec_sliding_window,
    )
