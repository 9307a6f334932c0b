"""S_kv from a layout."""

from __future__ import annotations

import pytest

from prfaas.core.layout import KvGroup, KvLayout, LayerLayout
from prfaas.profiling.layout_sizes import kv_size_of_layout, kv_tokens_of


def layer(index: int, size: int) -> LayerLayout:
    return LayerLayout(name=f"l{index}", index=index, page_bytes=size, dtype="u8", shape=(size,))


def test_a_hybrid() -> None:
    layout = KvLayout(
        model="m",
        groups=(
            KvGroup(kind="full_attention", block_tokens=64, layers=(layer(0, 640), layer(2, 640))),
            KvGroup(kind="recurrent", block_tokens=64, layers=(layer(1, 5000),)),
            KvGroup(
                kind="sliding_window", block_tokens=16, layers=(layer(3, 160),), window_tokens=128
            ),
        ),
        tp_size=2,
    )
    size = kv_size_of_layout(layout)
    assert size.bytes_per_token == 2 * 20
    for blocks in (5, 50):
        tokens = blocks * 64
        assert size.bytes(tokens) == pytest.approx(layout.handoff_bytes(0, tokens))


def test_tokens_of_a_pool_are_known_where_one_group_has_it() -> None:
    group = KvGroup(kind="full_attention", block_tokens=16, layers=(layer(0, 64),))
    assert kv_tokens_of(KvLayout(model="m", groups=(group,)), 100, 16) == 1600
    assert kv_tokens_of(KvLayout(model="m", groups=(group, group)), 100, 16) is None
