"""Pages of a sender that holds its cache otherwise, made into this rank's own.

Theory of operation. The sender's pages are put together in a staging buffer beside the cache, as
they lay in its own, a few MiB at a time; strided copies on the same device then take this rank's
heads, states and channels out of them, whatever the order of heads and tokens on either side. The
staging buffer costs one copy at the device's memory bandwidth, and spares the bus pieces of a few
hundred bytes each.

Blocks of different sizes meet in *groups*: as many tokens as divide a kernel block of either side.
Where the receiver's first block of a sliding window begins before the sender's, the tokens between,
which no later token sees, are zeroed; and so are those behind the hand-off's end.
"""

from __future__ import annotations

from collections.abc import Callable
from math import gcd
from typing import NamedTuple

import numpy as np
import torch

from prfaas.core.conversion import LayerSource, Move
from prfaas.core.errors import EngineError
from prfaas.core.layout import KvGroup, LayerLayout
from prfaas.core.pieces import Piece
from prfaas.vllm_plugin.pages import Addresses, PageCopier

STAGING_BYTES = 32 * 1024 * 1024
"""Of one buffer. A page is never larger than what vLLM allocates many of."""

_WORDS = ((8, torch.int64), (4, torch.int32), (2, torch.int16), (1, torch.uint8))


class SentLayer(NamedTuple):
    """One layer's pages in one part of a transfer: the sender's blocks [first_block, end_block)."""

    layer: LayerLayout
    group: KvGroup
    first_block: int
    end_block: int


class Wanted(NamedTuple):
    """The blocks [first_block, end_block) of one layer of this rank that are to be filled."""

    layer: LayerLayout
    group: KvGroup
    pages: torch.Tensor
    """``[num_blocks, page_bytes]`` uint8."""
    table: list[int]
    first_block: int
    end_block: int
    to_token: int


ReadPages = Callable[[int, int, int, torch.Tensor], None]
"""Puts blocks [start, stop) of what a rank of the sender sent into ``[stop - start, page_bytes]``.
"""


class Converter:
    """Converts pages for one rank; used by one thread."""

    def __init__(self, copier: PageCopier, device: torch.device) -> None:
        self._copier, self._device = copier, device
        self._staging: torch.Tensor | None = None

    def convert(
        self, source: LayerSource, sent: SentLayer, wanted: Wanted, read: ReadPages
    ) -> None:
        """Fill what is wanted of one layer. Raises EngineError where not all of it was sent."""
        if wanted.first_block >= wanted.end_block:
            return
        by_rank: dict[int, list[Move]] = {}
        for move in source.moves:
            by_rank.setdefault(move.source_rank, []).append(move)
        state = wanted.group.kind == "recurrent"
        plan = None if state else _Groups.between(sent, wanted)
        for rank, moves in by_rank.items():
            per_turn = max(1, STAGING_BYTES // sent.layer.page_bytes)
            first, end = _states_sent(sent, wanted) if plan is None else plan.source_blocks(sent)
            for start in range(first, end, per_turn):
                stop = min(end, start + per_turn)
                staged = self._stage(sent.layer.page_bytes, stop - start)
                read(rank, start, stop, staged)
                with self._copier.converting():
                    for move in moves:
                        if plan is None:
                            blocks = wanted.table[wanted.end_block - end + start :]
                            _copy_states(move, sent.layer, staged, blocks, wanted)
                        else:
                            plan.copy(move, sent, staged, start, stop, wanted)
        if plan is not None:
            with self._copier.converting():
                plan.zero_unsent(wanted)

    def _stage(self, page_bytes: int, blocks: int) -> torch.Tensor:
        """``[blocks, page_bytes]`` uint8. What the copier queued before reads it before it is
        written again: both run in order."""
        size = page_bytes * blocks
        if self._staging is None or len(self._staging) < size:
            with self._copier.converting():
                self._staging = torch.empty(
                    max(size, min(STAGING_BYTES, 2 * size)), dtype=torch.uint8, device=self._device
                )
        return self._staging[:size].view(blocks, page_bytes)


class _Groups(NamedTuple):
    """Runs of ``cells`` cells that lie in one row of a page on both sides, numbered from the
    prompt's first token; [first, last) are to be filled, of which [sent_first, end) were sent."""

    cells: int
    first: int
    sent_first: int
    end: int
    last: int

    @classmethod
    def between(cls, sent: SentLayer, wanted: Wanted) -> _Groups:
        ours, theirs = wanted.layer.pieces[0], sent.layer.pieces[0]
        cells = gcd(ours.cells, theirs.cells)
        tokens = cells * ours.cell_tokens
        first = wanted.first_block * wanted.group.block_tokens // tokens
        end = -(-wanted.to_token // tokens)
        last = wanted.end_block * wanted.group.block_tokens // tokens
        sent_first = sent.first_block * sent.group.block_tokens // tokens
        sent_end = sent.end_block * sent.group.block_tokens // tokens
        window = wanted.group.window_tokens
        seen = 0 if window is None else max(0, wanted.to_token - window + 1)
        if sent_end < end or (sent_first > first and sent_first * tokens > seen):
            raise EngineError(
                f"{wanted.layer.name}: tokens from {first * tokens} to {end * tokens} are needed, "
                f"{sent_first * tokens} to {sent_end * tokens} were sent"
            )
        return cls(cells, first, max(first, sent_first), end, last)

    def source_blocks(self, sent: SentLayer) -> tuple[int, int]:
        """The sender's blocks with groups that are wanted."""
        per_block = _groups_of(sent.layer.pieces[0], self.cells)
        return self.sent_first // per_block, -(-self.end // per_block)

    def copy(
        self, move: Move, sent: SentLayer, staged: torch.Tensor, start: int, stop: int, to: Wanted
    ) -> None:
        """What blocks [start, stop) of the sender hold of the groups."""
        per_block = _groups_of(sent.layer.pieces[0], self.cells)
        numbers = np.arange(
            max(self.sent_first, start * per_block), min(self.end, stop * per_block)
        )
        theirs, ours = sent.layer.pieces[move.piece], to.layer.pieces[move.piece]
        source = _grouped(staged, theirs, self.cells)
        target = _grouped(to.pages, ours, self.cells)
        _word_copy(
            source,
            self._places(numbers - start * per_block, theirs, None, staged.device),
            slice(move.source_unit, move.source_unit + move.units),
            target,
            self._places(numbers, ours, to.table, staged.device),
            slice(move.target_unit, move.target_unit + move.units),
        )

    def zero_unsent(self, to: Wanted) -> None:
        """Groups before what was sent and behind it: loaded blocks hold what was there before."""
        numbers = np.concatenate(
            [np.arange(self.first, self.sent_first), np.arange(self.end, self.last)]
        )
        if not len(numbers):
            return
        for piece in to.layer.pieces:
            places = self._places(numbers, piece, to.table, to.pages.device)
            _grouped(to.pages, piece, self.cells)[places] = 0

    def _places(
        self,
        numbers: Addresses,
        piece: Piece,
        table: list[int] | None,
        device: torch.device,
    ) -> tuple[torch.Tensor, ...]:
        """Block, row and place in the row of each group."""
        per_row = piece.cells // self.cells
        rows, place = np.divmod(numbers, per_row)
        block, row = np.divmod(rows, piece.rows)
        if table is not None:
            block = np.array(table, dtype=np.int64)[block]
        return tuple(torch.from_numpy(i.astype(np.int64)).to(device) for i in (block, row, place))


def _groups_of(piece: Piece, cells: int) -> int:
    """How many groups of so many cells a block has."""
    return piece.rows * (piece.cells // cells)


def _grouped(pages: torch.Tensor, piece: Piece, cells: int) -> torch.Tensor:
    """``[blocks, rows, groups of a row, units, cells of a group, bytes]``, a view."""
    return pages.as_strided(
        (len(pages), piece.rows, piece.cells // cells, piece.units, cells, piece.cell_bytes),
        (
            pages.stride(0),
            piece.row_stride,
            piece.cell_stride * cells,
            piece.unit_stride,
            piece.cell_stride,
            1,
        ),
        pages.storage_offset() + piece.offset,
    )


def _states_sent(sent: SentLayer, wanted: Wanted) -> tuple[int, int]:
    """The sender's blocks [first, end) with the states that are wanted. The last are both engines'
    state at the hand-off's end; those before it are only the same where blocks are equal."""
    count = wanted.end_block - wanted.first_block
    first = sent.end_block - count
    alike = sent.group.block_tokens == wanted.group.block_tokens
    if first < sent.first_block or (count > 1 and not alike):
        raise EngineError(f"{wanted.layer.name}: not all of the states that are needed were sent")
    return first, sent.end_block


def _copy_states(
    move: Move, layer: LayerLayout, staged: torch.Tensor, blocks: list[int], to: Wanted
) -> None:
    """One to each of this rank's ``blocks``."""
    theirs, ours = layer.pieces[move.piece], to.layer.pieces[move.piece]
    for number, block in zip(range(len(staged)), blocks, strict=False):
        _word_copy(
            _grouped(staged[number : number + 1], theirs, 1),
            (),
            slice(move.source_unit, move.source_unit + move.units),
            _grouped(to.pages[block : block + 1], ours, 1),
            (),
            slice(move.target_unit, move.target_unit + move.units),
        )


def _word_copy(
    source: torch.Tensor,
    from_places: tuple[torch.Tensor, ...],
    from_units: slice,
    target: torch.Tensor,
    to_places: tuple[torch.Tensor, ...],
    to_units: slice,
) -> None:
    """``target[to_places][..., to_units]`` = ``source[from_places][..., from_units]``, in the
    largest words that all strides are multiples of."""
    source, target = source[:, :, :, from_units], target[:, :, :, to_units]
    size, word = next(
        (size, word) for size, word in _WORDS if _fits(source, size) and _fits(target, size)
    )
    if size > 1:
        source, target = source.view(word), target.view(word)
    if from_places:
        target[to_places] = source[from_places]
    else:
        target.copy_(source)


def _fits(view: torch.Tensor, size: int) -> bool:
    whole = (view.shape[-1], view.storage_offset(), *view.stride()[:-1])
    return all(count % size == 0 for count in whole)
