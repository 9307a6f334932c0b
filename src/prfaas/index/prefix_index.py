"""Which prefix of a prompt each engine holds in its own prefix cache, learnt from its KV events.

Theory of operation. A vLLM engine publishes every block it caches (`stored`: hashes, the hash of
the block before them, token ids, extra keys such as a cache salt) and every block it drops
(`removed`). Its hash function need not be reproduced. From a stored full-attention block, whose
parent is known, this index derives a *key* of its own: a digest of (parent's key, token ids, extra
keys). The same keys are computed for a prompt, once, and looked up in every engine.

The engine's hash identifies a prefix and is the same in all of its KV groups, so the other groups
(recurrent, sliding window) only need the set of hashes they hold. Their events must not be used for
positions: their token ids also span blocks that were skipped.

Two lengths come out of a match:

* ``reusable_tokens``: the longest prefix the engine can continue from by itself: every
  full-attention block from the first on, in every recurrent group the state at exactly that
  length, in every sliding-window group the blocks that the next token still sees.
* ``transferable_tokens``: the prefix that a KV transfer to this engine can leave out. Where a
  model has recurrent layers beside one group of full attention that is the whole run of
  full-attention blocks, because the states travel in any case. Otherwise it is what the engine
  could reuse: for models without recurrent layers, with sliding windows or further groups (of
  which only the part after this prefix travels), and where a state lies beyond the end of the run
  (vLLM's `get_computed_blocks_for_connector`).

An engine always computes the last token of a prompt, so it never counts as held. All errors are on
the low side: what was never announced, cannot be placed, or exceeds ``max_blocks`` is taken as
absent. An engine that holds less than the index says recomputes; no answer is wrong.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import msgspec

from prfaas.core.errors import InvariantError
from prfaas.index.keys import ROOT, PromptKeys, block_key, encode_extra

BlockHash = int | bytes

_CHAINED_KINDS = frozenset({"full_attention", "mla_attention", "sink_full_attention"})
_STATE_KIND = "mamba"
_WINDOW_KINDS = frozenset({"sliding_window", "sliding_window_mla"})


class PrefixMatch(msgspec.Struct, frozen=True):
    """Tokens of a prompt's prefix that one engine holds (see the module's text)."""

    transferable_tokens: int = 0
    reusable_tokens: int = 0


class BlocksStored(msgspec.Struct, frozen=True, kw_only=True):
    """Blocks of one KV group that an engine now caches, as its event says.

    ``extra_keys`` has one entry per hash (or is None); ``window_tokens`` only for sliding windows.
    """

    group: int
    kind: str
    block_tokens: int
    hashes: Sequence[BlockHash]
    parent: BlockHash | None
    token_ids: Sequence[int]
    extra_keys: Sequence[Any] | None = None
    window_tokens: int | None = None


class EngineIndex:
    """What one engine holds. ``max_blocks`` bounds the hashes kept over all of its groups."""

    def __init__(self, *, max_blocks: int = 262_144) -> None:
        self._max_blocks = max_blocks
        self._groups: dict[int, _Group] = {}
        self._hash_of: dict[bytes, BlockHash] = {}
        self._key_of: dict[BlockHash, bytes] = {}
        self._held = 0
        self._block_tokens: int | None = None
        """Block size of the full-attention groups, from their first event."""
        self.unplaced_blocks_total = 0
        """Full-attention blocks whose parent was unknown or whose shape made no sense."""

    @property
    def blocks(self) -> int:
        """Hashes held over all groups: the index's size."""
        return self._held

    def clear(self) -> None:
        """The engine dropped everything, restarted, or cannot be followed any more."""
        self._groups.clear()
        self._hash_of.clear()
        self._key_of.clear()
        self._held = 0
        self._block_tokens = None

    def stored(self, event: BlocksStored) -> None:
        """Blocks were cached."""
        group = self._groups.get(event.group)
        if group is None:
            group = _Group(event.kind, event.block_tokens, event.window_tokens)
            self._groups[event.group] = group
        if group.chained:
            self._store_chained(group, event)
        else:
            for block_hash in event.hashes:
                self._hold(group, block_hash)
        while self._held > self._max_blocks:
            self._drop_oldest()

    def removed(self, group_index: int | None, hashes: Sequence[BlockHash]) -> None:
        """Blocks were dropped from one group (None: from every group)."""
        for index, group in self._groups.items():
            if group_index is None or index == group_index:
                for block_hash in hashes:
                    self._drop(group, block_hash)

    def match(self, prompt: PromptKeys) -> PrefixMatch:
        """How much of the prompt's prefix the engine holds."""
        if self._block_tokens is None:
            return PrefixMatch()
        chained = [group for group in self._groups.values() if group.chained]
        keys = prompt.for_block_size(self._block_tokens)
        run: list[BlockHash] = []
        for key in keys:
            block_hash = self._hash_of.get(key)
            if block_hash is None or any(block_hash not in group.held for group in chained):
                break
            run.append(block_hash)
        reusable = self._reusable_blocks(run)
        beyond = (self._hash_of.get(key) for key in keys[len(run) :])
        states = [group for group in self._groups.values() if group.kind == _STATE_KIND]
        one_other = len(self._groups) == len(states) + 1
        lagging = any(h in group.held for h in beyond for group in states)
        whole_run = states and one_other and not lagging
        transferable = len(run) if whole_run else reusable
        return PrefixMatch(transferable * self._block_tokens, reusable * self._block_tokens)

    def _reusable_blocks(self, run: Sequence[BlockHash]) -> int:
        """Longest part of the run, in blocks, that every other group can continue from."""
        assert self._block_tokens is not None
        others = [group for group in self._groups.values() if not group.chained]
        for count in range(len(run), 0, -1):
            if all(group.serves(run, count, self._block_tokens) for group in others):
                return count
        return 0

    def check_integrity(self) -> None:
        """Raise InvariantError if the index contradicts itself."""
        if {h: k for k, h in self._hash_of.items()} != self._key_of:
            raise InvariantError("keys and hashes are not each other's inverse")
        every = set().union(*(g.held for g in self._groups.values()))
        chained = set().union(*(g.held for g in self._groups.values() if g.chained))
        if not chained <= set(self._key_of) <= every:
            raise InvariantError("a full-attention block without a key, or a key nothing holds")
        held = sum(len(g.held) for g in self._groups.values())
        if held != self._held or held > self._max_blocks:
            raise InvariantError(
                f"{held} hashes held, {self._held} counted, {self._max_blocks} max"
            )

    def _store_chained(self, group: _Group, event: BlocksStored) -> None:
        """Key and hold the blocks of a full-attention event."""
        if self._block_tokens is None:
            self._block_tokens = event.block_tokens
        size = self._block_tokens
        key = ROOT if event.parent is None else self._key_of.get(event.parent)
        count, extras = len(event.hashes), event.extra_keys
        sound = event.block_tokens == size and len(event.token_ids) == size * count
        sound = sound and (not extras or len(extras) == count)
        if key is None or not sound:
            self.unplaced_blocks_total += count
            return
        tokens = array("I", event.token_ids)
        for number, block_hash in enumerate(event.hashes):
            extra = extras[number] if extras else None
            key = block_key(key, tokens[number * size : (number + 1) * size], encode_extra(extra))
            self._bind(key, block_hash)
            self._hold(group, block_hash)

    def _bind(self, key: bytes, block_hash: BlockHash) -> None:
        """Make key and hash each other's only partner (a clash ends the older binding)."""
        bound_hash, bound_key = self._hash_of.get(key), self._key_of.get(block_hash)
        if bound_key == key:
            return
        if bound_hash is not None:
            self.removed(None, [bound_hash])
        if bound_key is not None:
            self.removed(None, [block_hash])
        self._hash_of[key], self._key_of[block_hash] = block_hash, key

    def _hold(self, group: _Group, block_hash: BlockHash) -> None:
        if block_hash not in group.held:
            group.held[block_hash] = None
            self._held += 1

    def _drop(self, group: _Group, block_hash: BlockHash) -> None:
        if block_hash not in group.held:
            return
        del group.held[block_hash]
        self._held -= 1
        if block_hash in self._key_of and not any(
            block_hash in other.held for other in self._groups.values()
        ):
            del self._hash_of[self._key_of.pop(block_hash)]

    def _drop_oldest(self) -> None:
        largest = max(self._groups.values(), key=lambda group: len(group.held))
        self._drop(largest, next(iter(largest.held)))


class _Group:
    """One KV group of an engine. ``held`` is an ordered set: oldest first."""

    def __init__(self, kind: str, block_tokens: int, window_tokens: int | None) -> None:
        self.kind = kind
        self.block_tokens = block_tokens
        self.window_tokens = window_tokens
        self.chained = kind in _CHAINED_KINDS
        self.held: dict[BlockHash, None] = {}

    def serves(self, run: Sequence[BlockHash], count: int, run_block_tokens: int) -> bool:
        """Whether the prefix ``run[:count]`` can be continued as far as this group goes.

        ``run`` holds the hash at every multiple of ``run_block_tokens``. Kinds unknown here are
        never counted on.
        """
        if self.kind == _STATE_KIND:
            return run[count - 1] in self.held
        if self.kind not in _WINDOW_KINDS or self.window_tokens is None:
            return False
        step, odd = divmod(self.block_tokens, run_block_tokens)
        if odd or count % step:
            return False
        needed = -(-(self.window_tokens - 1) // self.block_tokens)
        return all(
            run[end - 1] in self.held for end in range(count, max(0, count - needed * step), -step)
        )
