"""What of a KV page tensor parallelism divides, and how: the arrays inside a page.

Theory of operation. A page is opaque where it moves whole. Where two engines divide a layer
otherwise, its interior must be known: a page is a few *pieces*, each an array of ``rows x units x
cells`` whose cells are opaque bytes. Tensor parallelism divides the units
alone (KV heads, heads of a recurrent state, channels of a convolution); where there are fewer than
ranks, runs of neighbouring ranks hold the same ones. That is vLLM's rule for every layer it shards.

What the ranks of an engine hold in common is sent by one of them; which one changes from layer to
layer, so that all of them carry a part.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Annotated

import msgspec

from prfaas.core.strict import Strict

Count = Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]
ByteCount = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]
"""Layouts come from other machines: what is computed of them must end, and soon."""
MOST_CELLS = 1 << 20
"""Of a piece: far beyond those of any model's page."""
MOST_PIECES, MOST_RUNS = 16, 128
"""Of a page, all its pieces together: each part of a convolution has a run for each tap, everything
else one."""


class Piece(Strict, frozen=True):
    """One array inside a page. Strides and ``offset`` are bytes from the page's start.

    Of attention layers a row is a kernel block, a unit a KV head, a cell what the head keeps of
    ``cell_tokens`` tokens: of one, or, where a backend packs tokens together, of a kernel block.
    Of recurrent layers a row is a tap of a convolution (or the only one), a unit a channel or a
    head, and there is one cell, of no token (0) in particular.
    """

    offset: ByteCount
    rows: Count
    row_stride: ByteCount
    units: Count
    unit_stride: ByteCount
    cells: Count
    cell_stride: ByteCount
    cell_bytes: Annotated[int, msgspec.Meta(ge=1, le=1 << 40)]
    total_units: Count
    """Of the whole model, each counted once."""
    cell_tokens: Annotated[int, msgspec.Meta(ge=0, le=1 << 24)] = 0

    def __post_init__(self) -> None:
        """Raises ValueError for an array that no page has."""
        if self.rows * self.units * self.cells > MOST_CELLS:
            raise ValueError(f"a piece of a page has at most {MOST_CELLS} cells")
        if self.total_units % self.units:
            raise ValueError(f"{self.units} units of {self.total_units}")

    @property
    def shards(self) -> int:
        """Ranks that hold different units."""
        return self.total_units // self.units

    def holds(self, tokens: int) -> bool:
        """Whether it is of so many tokens; of none: a state."""
        if tokens == 0 and self.cells > 1:
            return False
        return self.rows * self.cells * self.cell_tokens == tokens

    @property
    def held_bytes(self) -> int:
        """What one rank's page holds of it."""
        return self.rows * self.units * self.cells * self.cell_bytes

    @property
    def total_bytes(self) -> int:
        """What all ranks' pages hold of it, each byte counted once."""
        return self.rows * self.total_units * self.cells * self.cell_bytes

    def replicas(self, tp_size: int) -> int:
        """Ranks that hold the same units."""
        return max(1, tp_size // self.shards)

    def first_unit(self, tp_size: int, tp_rank: int) -> int:
        """The first of the model's units that this rank holds."""
        return tp_rank // self.replicas(tp_size) * self.units

    def sender(self, tp_size: int, unit: int, turn: int) -> int:
        """The rank that sends this one of the model's units, in the layer whose turn it is."""
        replicas = self.replicas(tp_size)
        return unit // self.units * replicas + turn % replicas

    def is_sent_by(self, tp_size: int, tp_rank: int, turn: int) -> bool:
        """Whether the rank sends what it holds of it."""
        return turn % self.replicas(tp_size) == tp_rank % self.replicas(tp_size)

    def runs(self) -> list[tuple[int, int]]:
        """Its bytes as [start, end) from the page's start, sorted and joined."""
        return joined(self.places(*self.apart()))

    def places(self, length: int, outer: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """The same as they come, of what `apart` says."""
        starts = [self.offset]
        for count, stride in reversed(outer):
            starts = [start + i * stride for start in starts for i in range(count)]
        return [(start, start + length) for start in starts]

    def apart(self) -> tuple[int, list[tuple[int, int]]]:
        """Bytes that lie together, and the axes (count, stride) along which such lie apart."""
        axes = (
            (self.rows, self.row_stride),
            (self.units, self.unit_stride),
            (self.cells, self.cell_stride),
        )
        length, outer = self.cell_bytes, []
        for count, stride in sorted(axes, key=lambda axis: axis[1]):
            if stride == length or count == 1:
                length *= count
            else:
                outer.append((count, stride))
        return length, outer


def joined(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted ranges [start, end) with neighbours joined."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if found and found[-1][1] == start:
            start = found.pop()[0]
        found.append((start, end))
    return found


@lru_cache(maxsize=256)
def fill_page(pieces: tuple[Piece, ...], page_bytes: int) -> bool:
    """Whether the pieces lie side by side, in no more places than real ones, and leave nothing of
    the page out."""
    apart = [piece.apart() for piece in pieces]
    if sum(prod(count for count, _ in outer) for _, outer in apart) > MOST_RUNS:
        return False
    every = [run for piece, how in zip(pieces, apart, strict=True) for run in piece.places(*how)]
    return joined(every) == [(0, page_bytes)]
