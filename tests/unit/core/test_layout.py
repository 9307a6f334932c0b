import base64
import zlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.core.boundary import aligned_boundary
from prfaas.core.errors import LayoutMismatch
from prfaas.core.layout import KvGroup, KvLayout, LayerLayout, block_range, sent_runs
from prfaas.core.transfer_plan import TransferPlan


def layer(index: int, page_bytes: int) -> LayerLayout:
    return LayerLayout(
        name=f"model.layers.{index}", index=index, page_bytes=page_bytes, dtype="int8", shape=(8,)
    )


def hybrid(window: int = 20) -> KvLayout:
    return KvLayout(
        model="m",
        groups=(
            KvGroup(kind="full_attention", block_tokens=8, layers=(layer(1, 32), layer(4, 32))),
            KvGroup(kind="recurrent", block_tokens=8, layers=(layer(0, 100), layer(2, 100))),
            KvGroup(
                kind="sliding_window", block_tokens=4, layers=(layer(3, 16),), window_tokens=window
            ),
        ),
    )


def test_boundary_leaves_at_least_one_token() -> None:
    layout = hybrid()
    assert [layout.boundary(n) for n in (1, 8, 9, 16, 17)] == [0, 0, 8, 8, 16]
    assert aligned_boundary(0, 8) == 0


@given(tokens=st.integers(1, 10_000), block=st.integers(1, 2048))
def test_the_boundary_is_the_last_multiple_before_the_last_token(tokens: int, block: int) -> None:
    boundary = aligned_boundary(tokens, block)
    assert boundary % block == 0
    assert boundary < tokens <= boundary + block


def test_equal_layouts_have_equal_fingerprints_and_pair() -> None:
    assert hybrid().fingerprint() == hybrid().fingerprint()
    hybrid().check_pairs_with(hybrid())


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (msgspec.structs.replace(hybrid(), model="n"), "model differs: 'm' and 'n'"),
        (
            msgspec.structs.replace(hybrid(), tp_size=2),
            r"layer model.layers.0: tp_size differs: 1 and 2",
        ),
        (msgspec.structs.replace(hybrid(), groups=hybrid().groups[:2]), "layers.3 on one side"),
        (hybrid(window=24), r"layer model.layers.3: window_tokens differs: 20 and 24"),
    ],
)
def test_an_unequal_layout_is_refused_by_name(changed: KvLayout, named: str) -> None:
    assert changed.fingerprint() != hybrid().fingerprint()
    with pytest.raises(LayoutMismatch, match=named):
        hybrid().check_pairs_with(changed)


def test_a_page_of_another_size_is_named_with_its_layer() -> None:
    groups = list(hybrid().groups)
    groups[0] = msgspec.structs.replace(groups[0], layers=(layer(1, 32), layer(4, 64)))
    with pytest.raises(LayoutMismatch, match=r"layer model.layers.4: page_bytes differs: 32 and"):
        hybrid().check_pairs_with(msgspec.structs.replace(hybrid(), groups=tuple(groups)))


def test_of_one_architecture_the_layers_difference_is_named_before_a_digest() -> None:
    """Another KV dtype makes another digest too, which tells nobody what to change."""
    ours = msgspec.convert(told(model="A:1"), KvLayout)
    theirs = msgspec.convert(told(model="A:2", dtype="uint8"), KvLayout)
    with pytest.raises(LayoutMismatch, match="layer l: dtype differs: 'u8' and 'uint8'"):
        ours.check_pairs_with(theirs)
    theirs = msgspec.structs.replace(ours, model="A:2")
    with pytest.raises(LayoutMismatch, match=r"'A:1' and 'A:2', by configuration, .*--kv-cache"):
        ours.check_pairs_with(theirs)


def test_recurrent_groups_carry_the_state_at_the_boundary_only() -> None:
    group = hybrid().groups[1]
    assert block_range(group, 0, 32) == (3, 4)
    assert block_range(group, 24, 32) == (3, 4)


def test_inside_a_block_the_state_at_the_last_blocks_end_comes_too() -> None:
    group = hybrid().groups[1]
    assert block_range(group, 0, 33) == (3, 5)
    assert block_range(group, 32, 39) == (3, 5)
    assert block_range(group, 0, 7) == (0, 1)


def test_sliding_window_carries_what_the_next_token_sees() -> None:
    group = hybrid(window=6).groups[2]
    # The token at 32 sees positions 27..32: blocks 6 and 7 of four tokens.
    assert block_range(group, 0, 32) == (6, 8)
    assert block_range(group, 28, 32) == (7, 8)


@given(blocks=st.integers(1, 12), skipped=st.integers(0, 12), window=st.integers(1, 60))
def test_spans_tile_flat_space_in_model_order(blocks: int, skipped: int, window: int) -> None:
    to_token, from_token = blocks * 8, min(skipped, blocks) * 8
    plan = TransferPlan(hybrid(window), from_token=from_token, to_token=to_token)
    offset = 0
    for span in plan.spans.values():
        assert span.flat_offset == offset
        assert span.length >= 0
        offset += span.length
    assert offset == plan.total_bytes
    assert offset == hybrid(window).handoff_bytes(from_token, to_token)
    assert [s.layer.index for s in plan.spans.values()] == sorted(
        s.layer.index for s in plan.spans.values()
    )


@pytest.mark.parametrize(("start", "end"), [(0, 0), (16, 8), (-1, 8)])
def test_a_plan_needs_a_range(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="token"):
        TransferPlan(hybrid(), from_token=start, to_token=end)


def piece(**changed: int) -> dict[str, int]:
    """Of one row, two heads, eight tokens."""
    found = {"offset": 0, "rows": 1, "row_stride": 64, "units": 2, "unit_stride": 32, "cells": 8,
             "cell_stride": 4, "cell_bytes": 4, "total_units": 2, "cell_tokens": 1}  # fmt: skip
    return found | changed


def comb(offset: int, teeth: int = 100) -> dict[str, int]:
    """Every other four bytes."""
    return {"offset": offset, "rows": teeth, "row_stride": 8, "units": 1, "unit_stride": 4,
            "cells": 1, "cell_stride": 4, "cell_bytes": 4, "total_units": 1}  # fmt: skip


def told(**changed: object) -> dict[str, Any]:
    """A layout as an agent tells it: of its layer, its group or itself something is otherwise."""
    layer: dict[str, object] = {"name": "l", "index": 0, "page_bytes": 64, "dtype": "u8"}
    layer |= {"shape": [64], "pieces": [piece()]}
    group: dict[str, object] = {"kind": "full_attention", "block_tokens": 8}
    layout: dict[str, object] = {"model": "m", "tp_rank": 0, "tp_size": 1}
    for name, value in changed.items():
        ours = layer if name in layer else group if name in {*group, "window_tokens"} else layout
        ours[name] = value
    group.setdefault("layers", [layer])
    if "layers" in layout:
        group["layers"] = layout.pop("layers")
    return {"groups": [group], **layout}


@pytest.mark.parametrize(
    "changed",
    [
        {"groups": []},
        {"layers": []},
        {"block_tokens": 0},
        {"block_tokens": -8},
        {"block_tokens": 1 << 60},
        {"kind": "sliding_window"},
        {"window_tokens": 0},
        {"tp_size": 0},
        {"tp_size": 1 << 40},
        {"tp_rank": -1},
        {"page_bytes": -1},
        {"page_bytes": 1 << 60},
        {"pieces": [piece(units=0)]},
        {"pieces": [piece(total_units=0)]},
        {"pieces": [piece(units=8)]},
        {"pieces": [piece(rows=1 << 24, cells=1 << 24)]},
        {"pieces": [piece(cell_stride=-4)]},
        {"pieces": [piece(offset=-1)]},
        {"pieces": [piece()] * 65},
        {"pieces": [piece(total_units=3)]},
        {"pieces": [piece(cell_bytes=0)]},
        # Written where they say, in the receiver's memory.
        {"pieces": [piece(offset=1 << 39)]},
        {"pieces": [piece(unit_stride=1 << 39)]},
        {"pieces": [piece(unit_stride=0)]},
        {"pieces": [piece(cell_stride=3)]},
        {"pieces": [piece()] * 2},
        {"page_bytes": 63},
        {"page_bytes": 1 << 39},
        {"pieces": [comb(0), comb(4)], "page_bytes": 8 * 100, "kind": "recurrent"},
        # Of other tokens than the block's.
        {"block_tokens": 16},
        {"pieces": [piece(cell_tokens=0)]},
        {"pieces": [piece(cell_tokens=2)]},
        {"kind": "recurrent"},
    ],
    ids=str,
)
def test_a_layout_from_elsewhere_that_no_engine_has_is_none(changed: dict[str, object]) -> None:
    msgspec.convert(told(), KvLayout)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(told(**changed), KvLayout)


def test_what_is_computed_of_any_layout_ends() -> None:
    shards = msgspec.convert(told(pieces=[piece(total_units=1 << 24)]), KvLayout)
    assert shards.sending_ranks() == (0,)
    assert shards.handoff_bytes(0, 8) > 0
    taps = told(pieces=[comb(0, 8), comb(4, 8)], page_bytes=64, kind="recurrent")
    assert msgspec.convert(taps, KvLayout).handoff_bytes(0, 8) == 64


@pytest.mark.parametrize("tp_size", [1, 2, 6, 8, 1024])
@pytest.mark.parametrize("totals", [(2, 2), (2, 4), (8, 2), (16, 64)], ids=str)
def test_who_sends_is_known_without_what(totals: tuple[int, int], tp_size: int) -> None:
    """Of thousands of layers and ranks, as an agent may tell of, that took minutes."""
    layers = [
        {"name": f"l{number}", "index": number, "page_bytes": 64, "dtype": "u8", "shape": [64],
         "pieces": [piece(units=1, unit_stride=32, offset=32 * each, total_units=totals[each],
                          cells=8, row_stride=64) for each in (0, 1)]}
        for number in range(3)
    ]  # fmt: skip
    layout = msgspec.convert(told(layers=layers, tp_size=tp_size), KvLayout)
    sent_runs.cache_clear()
    senders = layout.sending_ranks()
    assert not sent_runs.cache_info().misses
    assert senders == tuple(r for r in range(tp_size) if sent_runs(layout.of_rank(r)))


@pytest.mark.parametrize(("tp_size", "total"), [(1, 4), (2, 8), (6, 8), (4, 16)])
def test_units_that_no_rank_has_pair_with_nothing(tp_size: int, total: int) -> None:
    """A part would be waited for that nobody sends."""
    ours = msgspec.convert(told(pieces=[piece(total_units=total)], tp_size=total // 2), KvLayout)
    ours.check_pairs_with(ours)
    theirs = msgspec.structs.replace(ours, tp_size=tp_size)
    for one, other in ((ours, theirs), (theirs, ours)):
        with pytest.raises(LayoutMismatch, match=f"layer l: {tp_size} ranks do not divide it so"):
            one.check_pairs_with(other)


def test_a_packed_layout_that_no_engine_has_cannot_be_read() -> None:
    """It comes with the request, to an engine that writes into its memory what it says."""
    for changed in ({}, {"pieces": [piece(offset=1 << 39)]}):
        raw = zlib.compress(msgspec.msgpack.encode(told(**changed)))
        text = base64.b64encode(raw).decode()
        if not changed:
            assert KvLayout.unpacked(text).groups
            continue
        with pytest.raises(LayoutMismatch, match=r"cannot be read: .*pieces are not its page"):
            KvLayout.unpacked(text)
