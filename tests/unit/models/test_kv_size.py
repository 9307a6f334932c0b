"""S_kv."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.models.kv_size import KvSize, Window


def test_kv_size_grows_until_the_window_is_full() -> None:
    kv = KvSize(100, 2, (Window(10, 4),))
    assert kv.bytes(3) == 100 + 6 + 30
    assert kv.bytes(np.array([3.0, 50.0])).tolist() == [136, 240]


@given(st.lists(st.integers(0, 200_000), min_size=1, max_size=8))
def test_numbers_and_arrays_agree_and_nothing_shrinks(tokens: list[int]) -> None:
    kv = KvSize(1e6, 17280, (Window(512, 1024), Window(128, 4096)))
    tokens = sorted(tokens)
    each = [kv.bytes(n) for n in tokens]
    assert kv.bytes(np.array(tokens, dtype=float)).tolist() == pytest.approx(each)
    assert each == sorted(each)
    assert all(size >= kv.constant_bytes for size in each)
