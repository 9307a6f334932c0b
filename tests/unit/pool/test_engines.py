"""Which engine ranks may connect, and which offers fit them."""

from __future__ import annotations

import msgspec
import pytest

from prfaas.core.errors import EngineError, LayoutMismatch
from prfaas.core.layout import KvGroup, KvLayout, LayerLayout
from prfaas.core.pieces import Piece
from prfaas.pool.engines import MOST_LAYOUT_BYTES, Engines
from prfaas.pool.events import EngineConnected
from prfaas.testing.mock_engine_rank import mock_layout


def divided(tp_size: int) -> KvLayout:
    """One attention layer of eight heads, divided among so many ranks."""
    layer = LayerLayout(
        name="layer.0",
        index=0,
        page_bytes=64 // tp_size,
        dtype="bfloat16",
        shape=(64 // tp_size,),
        pieces=(
            Piece(
                offset=0,
                rows=1,
                row_stride=64 // tp_size,
                units=8 // tp_size,
                unit_stride=8,
                cells=1,
                cell_stride=8,
                cell_bytes=8,
                total_units=8,
                cell_tokens=16,
            ),
        ),
    )
    group = KvGroup(kind="full_attention", block_tokens=16, layers=(layer,))
    return KvLayout(model="mock", groups=(group,), tp_size=tp_size)


def test_engines() -> None:
    engines = Engines(frozenset({"a", "b"}))
    engines.connected(EngineConnected(1, "a", 10, divided(tp_size=1)))
    with pytest.raises(EngineError, match="connected already, with pid 10"):
        engines.connected(EngineConnected(2, "a", 11, divided(tp_size=1)))
    other_rank = msgspec.structs.replace(divided(tp_size=2), tp_rank=1)
    engines.connected(EngineConnected(3, "b", 12, other_rank))
    engines.check_offer(divided(tp_size=4).fingerprint())
    with pytest.raises(EngineError, match="layout 01234567 of the sender"):
        engines.check_offer("0123456789")
    engines.closed(1)
    engines.closed(3)
    engines.check_offer("whoever is not here may still come")


def test_engines_that_divide_a_model_otherwise_stand_beside_each_other() -> None:
    engines = Engines(frozenset({"a", "b"}))
    engines.connected(EngineConnected(1, "a", 10, divided(tp_size=1)))
    for rank in (0, 1):
        engines.connected(EngineConnected(2 + rank, "b", 11 + rank, divided(2).of_rank(rank)))
    engines.check_offer(divided(4).of_rank(3).fingerprint())
    with pytest.raises(LayoutMismatch, match="ranks are alike"):
        engines.connected(EngineConnected(4, "b", 13, divided(4).of_rank(2)))
    with pytest.raises(EngineError, match="rank 2 of 2 ranks is none"):
        engines.connected(EngineConnected(4, "b", 13, divided(2).of_rank(2)))


def test_two_builds_stand_side_by_side_and_either_takes_what_fits_it() -> None:
    engines = Engines(frozenset({"old", "new"}))
    old, new = mock_layout(), mock_layout("float16")
    engines.connected(EngineConnected(1, "old", 10, old))
    engines.connected(EngineConnected(2, "new", 11, new))
    engines.check_offer(old.fingerprint())
    engines.check_offer(new.fingerprint())
    with pytest.raises(LayoutMismatch, match="layout 01234567 of the sender"):
        engines.check_offer("0123456789")


def test_what_is_refused_leaves_no_trace() -> None:
    engines = Engines(frozenset({"a", "b"}))
    with pytest.raises(EngineError, match="not in the deployment here; known: a, b"):
        engines.connected(EngineConnected(1, "stranger", 10, mock_layout()))
    engines.connected(EngineConnected(2, "a", 10, mock_layout()))
    assert [entry.engine for entry in engines.entries()] == ["a"]
    assert engines.of(2).rank == 0
    with pytest.raises(EngineError, match="connection 3 has not registered"):
        engines.of(3)


def test_what_is_told_of_one_engine_has_bounds() -> None:
    """Gateways read all of it at once, with what there is of others."""
    engines = Engines(frozenset({"a", "b"}))
    named = msgspec.structs.replace(divided(tp_size=8), model="m" * (MOST_LAYOUT_BYTES // 4))
    for rank in range(3):
        engines.connected(EngineConnected(rank, "a", 10, named.of_rank(rank)))
    with pytest.raises(EngineError, match="larger than any model's"):
        engines.connected(EngineConnected(3, "a", 10, named.of_rank(3)))
    engines.connected(EngineConnected(4, "b", 11, named))
    assert len(engines.entries()) == 4
