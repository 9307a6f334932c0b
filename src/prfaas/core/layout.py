"""How an engine rank holds its KV cache, and which bytes a hand-off of tokens [a, T) carries.

Theory of operation. vLLM keeps one *page* per (layer, block): a fixed number of bytes that holds
``block_tokens`` tokens of a full-attention or sliding-window layer, or one recurrent state of a
linear-attention layer. Pages are sent as they lie in the sender's cache, so one description serves
GQA, MLA, sliding window, Gated DeltaNet and Mamba.

A hand-off moves the KV of tokens [from_token, to_token) plus the recurrent states as they stand
after ``to_token`` tokens. An *aligned* one ends at a multiple of every group's block size. An
*exact* one ends before the prompt's last token, inside a block: it also carries the states as they
stand at the last block's end before it, from which another prompt can go on.

Each rank of the sender sends one part. Its bytes form one *flat* address space: layers in model
order, inside a layer its pages in block order, nothing between them, and nothing that another rank
of the sender sends (`core.pieces`). Both engines derive the same `TransferPlan` from the sender's
layout, so the wire and the agents only ever speak of ``(flat_offset, length)`` and never of layers.
A receiver that holds its cache as the sender does copies whole pages; another converts what it
reads (`core.conversion`).

Sliding-window layers hand over only the blocks a token at ``to_token`` can still see.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Annotated, Literal

import msgspec
import xxhash

from prfaas.core.boundary import aligned_boundary
from prfaas.core.errors import UNREADABLE, LayoutMismatch
from prfaas.core.pieces import MOST_PIECES, ByteCount, Count, Piece, fill_page, joined
from prfaas.core.strict import Strict

MAX_LAYOUT_BYTES = 1024 * 1024
"""Of a layout as bytes: more than any model's."""

PAIRING_DIGITS = 16
"""So many digits of a fingerprint are equal exactly where two ranks' engines pair."""

GroupKind = Literal["full_attention", "sliding_window", "recurrent"]
MOST_RANKS = 1024
Dimension = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""Of a tensor; what is wider has no place in MessagePack."""


class LayerLayout(Strict, frozen=True):
    """One layer's page. ``index`` is its place in the model, ``page_bytes`` what is moved of a
    block (the content, without padding). ``dtype``, ``shape`` and ``strides`` are what vLLM
    registered, without the block dimension, ``interior`` says in words what they do not tell of how
    a page is laid out: they are compared, never computed with. ``pieces`` together are the page;
    without them its interior is unknown, and only equal engines exchange it."""

    name: str
    index: Annotated[int, msgspec.Meta(ge=0, le=1 << 24)]
    page_bytes: ByteCount
    dtype: str
    shape: tuple[Dimension, ...]
    strides: tuple[Dimension, ...] = ()
    interior: str = ""
    pieces: Annotated[tuple[Piece, ...], msgspec.Meta(max_length=MOST_PIECES)] = ()

    def __post_init__(self) -> None:
        """Raises ValueError for pieces that are not the page: a receiver writes where they say."""
        if self.pieces and not fill_page(self.pieces, self.page_bytes):
            raise ValueError(f"layer {self.name}: its pieces are not its page")


class KvGroup(Strict, frozen=True):
    """Layers that share one block table (a vLLM KV cache group)."""

    kind: GroupKind
    block_tokens: Count
    layers: Annotated[tuple[LayerLayout, ...], msgspec.Meta(max_length=4096)]
    window_tokens: Annotated[int, msgspec.Meta(ge=1, le=1 << 40)] | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for windows without a size, and pieces of other tokens than a block."""
        if self.kind == "sliding_window" and self.window_tokens is None:
            raise ValueError("a sliding window has window_tokens")
        tokens = 0 if self.kind == "recurrent" else self.block_tokens
        if not all(piece.holds(tokens) for layer in self.layers for piece in layer.pieces):
            raise ValueError("a layer's pieces hold other tokens than its blocks")


class KvLayout(Strict, frozen=True):
    """All of one tensor-parallel rank's KV cache. An engine's ranks differ in ``tp_rank`` alone."""

    model: str
    groups: Annotated[tuple[KvGroup, ...], msgspec.Meta(min_length=1, max_length=256)]
    tp_rank: Annotated[int, msgspec.Meta(ge=0, lt=MOST_RANKS)] = 0
    tp_size: Annotated[int, msgspec.Meta(ge=1, le=MOST_RANKS)] = 1

    def __post_init__(self) -> None:
        """Raises ValueError for one of nothing."""
        if not any(group.layers for group in self.groups):
            raise ValueError("a KV layout has layers")

    def fingerprint(self) -> str:
        """32 hex digits. The first `PAIRING_DIGITS` are equal exactly where two ranks' engines
        pair, all of them where the ranks hold their pages alike, byte for byte."""
        return _fingerprint(self)

    def of_rank(self, tp_rank: int) -> KvLayout:
        """The layout of another rank of the same engine."""
        return msgspec.structs.replace(self, tp_rank=tp_rank)

    def is_held_as(self, other: KvLayout) -> bool:
        """Whether both engines hold everything alike, rank by rank."""
        return self.of_rank(0) == other.of_rank(0)

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
        """What a hand-off of tokens [from_token, to_token) takes, over all ranks: each byte once,
        however many ranks hold it."""
        total = 0
        for group, block_bytes in zip(self.groups, _block_bytes(self), strict=True):
            first, end = block_range(group, from_token, to_token)
            total += (end - first) * block_bytes
        return total

    def sending_ranks(self) -> tuple[int, ...]:
        """Ranks of this engine that have a part of every hand-off to send."""
        return _sending_ranks(self.of_rank(0))

    def check_pairs_with(self, other: KvLayout) -> None:
        """Raise LayoutMismatch that names the first difference that cannot be converted, or return
        if there is none."""
        difference = _difference(self, other)
        if difference is not None:
            raise LayoutMismatch(difference)

    def packed(self) -> str:
        """As text, for `unpacked`. Its size grows with the kinds of layers, hardly with layers."""
        return base64.b64encode(zlib.compress(msgspec.msgpack.encode(self), 9)).decode()

    @classmethod
    @lru_cache(maxsize=64)
    def unpacked(cls, text: str) -> KvLayout:
        """What `packed` made. Raises LayoutMismatch for anything else."""
        try:
            inflater = zlib.decompressobj()
            raw = inflater.decompress(base64.b64decode(text, validate=True), MAX_LAYOUT_BYTES)
            if not inflater.eof:
                raise ValueError(f"larger than {MAX_LAYOUT_BYTES} bytes, or cut off")
            return msgspec.msgpack.decode(raw, type=cls)
        except (ValueError, zlib.error, *UNREADABLE) as error:
            raise LayoutMismatch(f"a KV layout that cannot be read: {error}") from error


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


def layers_in_model_order(layout: KvLayout) -> Iterator[tuple[int, LayerLayout]]:
    """Every layer with the number of its group, as the model runs them."""
    every = [(g, layer) for g, group in enumerate(layout.groups) for layer in group.layers]
    yield from sorted(every, key=lambda item: (item[1].index, item[1].name))


@lru_cache(maxsize=64)
def turns(layout: KvLayout) -> dict[str, int]:
    """Layer name to the turn that decides who sends what its ranks hold in common: layers of which
    ranks hold equally much in common take turns."""
    found: dict[str, int] = {}
    counts: dict[tuple[int, ...], int] = {}
    for _, layer in layers_in_model_order(layout):
        replicas = tuple(piece.replicas(layout.tp_size) for piece in layer.pieces)
        found[layer.name] = counts.get(replicas, 0)
        counts[replicas] = found[layer.name] + 1
    return found


@lru_cache(maxsize=64)
def sent_runs(layout: KvLayout) -> dict[str, tuple[tuple[int, int], ...]]:
    """Layer name to the parts [start, end) of its pages that this rank sends; a layer of which it
    sends nothing is left out."""
    found: dict[str, tuple[tuple[int, int], ...]] = {}
    turn_of = turns(layout.of_rank(0))
    for _, layer in layers_in_model_order(layout):
        turn = turn_of[layer.name]
        sent = [p for p in layer.pieces if p.is_sent_by(layout.tp_size, layout.tp_rank, turn)]
        if len(sent) == len(layer.pieces):
            found[layer.name] = ((0, layer.page_bytes),)
        elif sent:
            found[layer.name] = tuple(joined([run for piece in sent for run in piece.runs()]))
    return found


@lru_cache(maxsize=64)
def _sending_ranks(layout: KvLayout) -> tuple[int, ...]:
    # Not by what each of them sends: of thousands of layers and ranks that takes minutes.
    size, turn_of = layout.tp_size, turns(layout)
    shares: set[tuple[int, int]] = set()
    for _, layer in layers_in_model_order(layout):
        if not layer.pieces:
            return tuple(range(size))
        each = (piece.replicas(size) for piece in layer.pieces)
        shares.update((replicas, turn_of[layer.name] % replicas) for replicas in each)
    return tuple(sorted({r for replicas, turn in shares for r in range(turn, size, replicas)}))


@lru_cache(maxsize=64)
def _block_bytes(layout: KvLayout) -> tuple[int, ...]:
    """Per group, what a block of all its layers takes over all ranks."""
    return tuple(
        sum(
            sum(piece.total_bytes for piece in layer.pieces) or layer.page_bytes * layout.tp_size
            for layer in group.layers
        )
        for group in layout.groups
    )


@lru_cache(maxsize=64)
def _fingerprint(layout: KvLayout) -> str:
    content = [layout.model, [_content(layout, *item) for item in layers_in_model_order(layout)]]
    return "".join(
        xxhash.xxh3_64_hexdigest(msgspec.msgpack.encode(part)) for part in (content, layout)
    )


def _content(layout: KvLayout, group_index: int, layer: LayerLayout) -> dict[str, object]:
    """What two engines' layers must have in common, in words that a person understands."""
    group = layout.groups[group_index]
    found: dict[str, object] = {
        "name": layer.name,
        "index": layer.index,
        "kind": group.kind,
        "window_tokens": group.window_tokens,
        "dtype": layer.dtype if group.kind != "recurrent" else "",
    }
    if not layer.pieces:
        # Nothing is known of the interior: all of it must be the same.
        return found | {
            "block_tokens": group.block_tokens,
            "tp_size": layout.tp_size,
            "page_bytes": layer.page_bytes,
            "shape": layer.shape,
            "strides": layer.strides,
            "interior": layer.interior,
        }
    return found | {
        "interior": layer.interior,
        "number of pieces": len(layer.pieces),
        "heads or channels": [piece.total_units for piece in layer.pieces],
        "bytes of a head or channel": [_unit_bytes(piece) for piece in layer.pieces],
        "tokens packed together": [piece.cell_tokens for piece in layer.pieces],
    }


def _unit_bytes(piece: Piece) -> tuple[int, int]:
    """Rows and bytes of what is never taken apart. Blocks of tokens are."""
    return 0 if piece.cell_tokens else piece.rows, piece.cell_bytes


def _difference(ours: KvLayout, theirs: KvLayout) -> str | None:
    model = f"model differs: {ours.model!r} and {theirs.model!r}"
    if ours.model.partition(":")[0] != theirs.model.partition(":")[0]:
        return model
    left, right = (
        {item[1].name: _content(layout, *item) for item in layers_in_model_order(layout)}
        for layout in (ours, theirs)
    )
    for layout in (ours, theirs):
        for _, layer in layers_in_model_order(layout):
            if any(layout.tp_size % piece.shards for piece in layer.pieces):
                return f"layer {layer.name}: {layout.tp_size} ranks do not divide it so"
    alone = sorted(left.keys() ^ right.keys())
    if alone:
        return f"layers differ: {', '.join(alone[:4])} on one side only"
    for name, content in left.items():
        for what in {**content, **right[name]}:
            a, b = content.get(what), right[name].get(what)
            if a != b:
                return f"layer {name}: {what} differs: {a!r} and {b!r}"
    # Last: a digest says less than a layer does.
    if ours.model != theirs.model:
        return f"{model}, by configuration, dtype, quantisation or --kv-cache-dtype"
    return None
