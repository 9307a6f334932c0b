"""How an engine rank holds its KV cache, and which bytes a hand-off of tokens [a, T) carries.

Theory of operation. vLLM keeps one *page* per (layer, block): a fixed number of bytes that holds
``block_tokens`` tokens of a full-attention or sliding-window layer, or one recurrent state of a
linear-attention layer. Pages are opaque here: they are moved whole, never interpreted, so one
description serves GQA, MLA, sliding window, Gated DeltaNet and Mamba.

A hand-off moves the KV of tokens [from_token, to_token) plus the recurrent states as they stand
after ``to_token`` tokens. An *aligned* one ends at a multiple of every group's block size. An
*exact* one ends before the prompt's last token, inside a block: it also carries the states as they
stand at the last block's end before it, from which another prompt can go on. Its bytes form one
*flat* address space: layers in model order, inside a layer its pages in block order, nothing
between them. Both engines derive the same `TransferPlan` from the same layout, so the wire and
the agents only ever speak of ``(flat_offset, length)`` and never of layers.

Sliding-window layers hand over only the blocks a token at ``to_token`` can still see.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec
import xxhash

from prfaas.core.errors import LayoutMismatch
from prfaas.core.strict import Strict

GroupKind = Literal["full_attention", "sliding_window", "recurrent"]


def aligned_boundary(prompt_tokens: int, block_tokens: int) -> int:
    """T = floor((N-1)/block)*block: where the hand-off of an N-token prompt ends, 0 or more.

    The last token is never part of it: the decode engine computes at least that one.
    """
    return max(0, (prompt_tokens - 1) // block_tokens * block_tokens)


class LayerLayout(Strict, frozen=True):
    """One layer's page. ``index`` is its place in the model, ``page_bytes`` what is moved of a
    block (the content, without padding). ``dtype``, ``shape`` and ``strides`` are what vLLM
    registered, without the block dimension, ``interior`` says in words what they do not tell of how
    a page is laid out: they are compared, never computed with."""

    name: str
    index: int
    page_bytes: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...] = ()
    interior: str = ""


class KvGroup(Strict, frozen=True):
    """Layers that share one block table (a vLLM KV cache group)."""

    kind: GroupKind
    block_tokens: int
    layers: tuple[LayerLayout, ...]
    window_tokens: int | None = None


class KvLayout(Strict, frozen=True):
    """All of one tensor-parallel rank's KV cache."""

    model: str
    groups: tuple[KvGroup, ...]
    tp_rank: int = 0
    tp_size: int = 1

    def fingerprint(self) -> str:
        """32 hex digits, equal exactly where two ranks can exchange pages byte for byte."""
        return xxhash.xxh3_128_hexdigest(msgspec.msgpack.encode(self))

    @property
    def alignment_tokens(self) -> int:
        """Hand-off boundaries are multiples of this: the largest block size, which every other
        group's block size must divide (vLLM aligns them so)."""
        return max(group.block_tokens for group in self.groups)

    @property
    def may_end_inside_a_block(self) -> bool:
        """Whether the states at the last block's end of an exact hand-off are known to stand still:
        recurrent groups must have blocks of ``alignment_tokens``."""
        return all(
            group.block_tokens == self.alignment_tokens
            for group in self.groups
            if group.kind == "recurrent"
        )

    def boundary(self, prompt_tokens: int) -> int:
        """The `aligned_boundary` of an N-token prompt on engines with this layout."""
        return aligned_boundary(prompt_tokens, self.alignment_tokens)

    def handoff_bytes(self, from_token: int, to_token: int) -> int:
        """What a hand-off of tokens [from_token, to_token) takes, over all ranks."""
        total = 0
        for group in self.groups:
            first, end = block_range(group, from_token, to_token)
            total += (end - first) * sum(layer.page_bytes for layer in group.layers)
        return total * self.tp_size

    def check_pairs_with(self, other: KvLayout) -> None:
        """Raise LayoutMismatch that names the first difference, or return if there is none."""
        difference = _difference(self, other)
        if difference is not None:
            raise LayoutMismatch(difference)


class LayerSpan(msgspec.Struct, frozen=True):
    """A layer's place in the flat address space: pages of blocks [first_block, end_block)."""

    group: int
    layer: LayerLayout
    first_block: int
    end_block: int
    flat_offset: int

    @property
    def length(self) -> int:
        """Bytes of the span."""
        return (self.end_block - self.first_block) * self.layer.page_bytes

    def offset_of(self, block: int) -> int:
        """Flat offset of one block's page."""
        return self.flat_offset + (block - self.first_block) * self.layer.page_bytes


class TransferPlan:
    """Which pages a hand-off of [from_token, to_token) carries and where each lies in flat space.

    Args:
        layout: one rank's layout.
        from_token: first token the receiver lacks; rounded down to a block of each group.
        to_token: where the hand-off ends, at least one token.
    """

    def __init__(self, layout: KvLayout, *, from_token: int, to_token: int) -> None:
        if to_token <= 0 or not 0 <= from_token <= to_token:
            raise ValueError(f"from_token {from_token} outside [0, {to_token}]")
        self.from_token, self.to_token = from_token, to_token
        self.spans: dict[str, LayerSpan] = {}
        offset = 0
        for group_index, layer in _layers_in_model_order(layout):
            first, end = block_range(layout.groups[group_index], from_token, to_token)
            span = LayerSpan(group_index, layer, first, end, offset)
            self.spans[layer.name] = span
            offset += span.length
        self.total_bytes = offset


def block_range(group: KvGroup, from_token: int, to_token: int) -> tuple[int, int]:
    """Blocks [first, end) of a group's table that a hand-off of [from_token, to_token) carries.

    A recurrent group carries the block that holds the state after ``to_token`` tokens, and before
    it, where that lies inside a block, the one with the state at the last block's end.
    """
    end = -(-to_token // group.block_tokens)
    if group.kind == "recurrent":
        inside_a_block = to_token % group.block_tokens != 0
        return max(0, end - 1 - inside_a_block), end
    first = from_token // group.block_tokens
    if group.kind == "sliding_window":
        assert group.window_tokens is not None
        # The token at position to_token sees positions > to_token - window.
        visible = max(0, to_token - group.window_tokens + 1) // group.block_tokens
        first = max(first, visible)
    return first, end


def _layers_in_model_order(layout: KvLayout) -> Iterator[tuple[int, LayerLayout]]:
    every = [(g, layer) for g, group in enumerate(layout.groups) for layer in group.layers]
    yield from sorted(every, key=lambda item: (item[1].index, item[1].name))


def _difference(ours: KvLayout, theirs: KvLayout) -> str | None:
    for what in ("model", "tp_size", "tp_rank"):
        a, b = getattr(ours, what), getattr(theirs, what)
        if a != b:
            return f"{what} differs: {a!r} and {b!r}"
    if len(ours.groups) != len(theirs.groups):
        return f"number of KV groups differs: {len(ours.groups)} and {len(theirs.groups)}"
    for number, (a, b) in enumerate(zip(ours.groups, theirs.groups, strict=True)):
        for what in ("kind", "block_tokens", "window_tokens"):
            if getattr(a, what) != getattr(b, what):
                return (
                    f"KV group {number}: {what} differs: {getattr(a, what)!r} "
                    f"and {getattr(b, what)!r}"
                )
        if len(a.layers) != len(b.layers):
            return f"KV group {number}: {len(a.layers)} layers and {len(b.layers)} layers"
        for left, right in zip(a.layers, b.layers, strict=True):
            for what in ("name", "index", "page_bytes", "dtype", "shape", "strides", "interior"):
                if getattr(left, what) != getattr(right, what):
                    return (
                        f"layer {left.name}: {what} differs: {getattr(left, what)!r} "
                        f"and {getattr(right, what)!r}"
                    )
    return None
