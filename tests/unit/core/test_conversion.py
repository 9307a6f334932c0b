"""From which of the sender's ranks a rank's pages come."""

from __future__ import annotations

import msgspec
import pytest

from prfaas.core.conversion import Move, layer_sources, parts_to_read
from prfaas.core.errors import LayoutMismatch
from prfaas.core.layout import KvGroup, KvLayout, LayerLayout
from prfaas.core.pieces import Piece
from prfaas.core.transfer_plan import TransferPlan


def layout(tp_size: int, *, heads: int = 4, layers: int = 3, rank: int = 0) -> KvLayout:
    units = max(1, heads // tp_size)
    piece = Piece(
        offset=0,
        rows=1,
        row_stride=8 * units,
        units=units,
        unit_stride=8,
        cells=2,
        cell_stride=4,
        cell_bytes=4,
        total_units=heads,
        cell_tokens=1,
    )
    made = tuple(
        LayerLayout(
            name=f"layers.{i}",
            index=i,
            page_bytes=piece.held_bytes,
            dtype="int8",
            shape=(units,),
            pieces=(piece,),
        )
        for i in range(layers)
    )
    group = KvGroup(kind="full_attention", block_tokens=2, layers=made)
    return KvLayout(model="m", groups=(group,), tp_rank=rank, tp_size=tp_size)


def test_equal_engines_read_their_own_rank_as_it_is() -> None:
    for rank in range(4):
        target = layout(4, rank=rank)
        assert parts_to_read(layout(4), target) == (rank,)
        assert all(source.as_it_is for source in layer_sources(layout(4), target).values())


def test_heads_are_merged_and_split() -> None:
    merged = layer_sources(layout(4), layout(2, rank=1))["layers.0"]
    assert not merged.as_it_is
    assert merged.moves == (Move(2, 0, 0, 0, 1), Move(3, 0, 0, 1, 1))
    split = layer_sources(layout(1), layout(2, rank=1))["layers.0"]
    assert split.moves == (Move(0, 0, 2, 0, 2),)


def test_what_all_ranks_hold_comes_from_one_of_them_at_a_time() -> None:
    shared = layout(2, heads=1)
    sources = layer_sources(shared, layout(2, heads=1, rank=1))
    assert [source.ranks for source in sources.values()] == [(0,), (1,), (0,)]
    assert all(source.as_it_is for source in sources.values())
    assert parts_to_read(shared, layout(1, heads=1)) == (0, 1)
    plans = [TransferPlan(shared.of_rank(r), from_token=0, to_token=4) for r in (0, 1)]
    assert [list(plan.spans) for plan in plans] == [["layers.0", "layers.2"], ["layers.1"]]
    assert sum(plan.total_bytes for plan in plans) == shared.handoff_bytes(0, 4)


def test_a_rank_may_have_nothing_to_send() -> None:
    assert layout(8, heads=1, layers=3).sending_ranks() == (0, 1, 2)
    assert layout(8, heads=8).sending_ranks() == tuple(range(8))


def test_a_layout_travels_packed() -> None:
    whole = layout(8, layers=61, rank=3)
    assert KvLayout.unpacked(whole.packed()) == whole
    assert len(whole.packed()) < 2000
    for text in ("", "?", whole.packed()[:40], msgspec.json.encode(whole).decode()):
        with pytest.raises(LayoutMismatch, match="cannot be read"):
            KvLayout.unpacked(text)


def test_layouts_that_pair_have_fingerprints_that_begin_alike() -> None:
    ours, theirs = layout(1), layout(4, rank=2)
    ours.check_pairs_with(theirs)
    assert ours.fingerprint() != theirs.fingerprint()
    with pytest.raises(LayoutMismatch):
        ours.check_pairs_with(layout(1, heads=8))
