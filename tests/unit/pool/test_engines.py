"""Which engine ranks may connect, and which offers fit them."""

from __future__ import annotations

import msgspec
import pytest

from prfaas.core.errors import EngineError, LayoutMismatch
from prfaas.pool.engines import Engines
from prfaas.pool.events import EngineConnected
from prfaas.testing.mock_engine_rank import mock_layout


def test_engines() -> None:
    engines = Engines(frozenset({"a", "b"}))
    engines.connected(EngineConnected(1, "a", 10, mock_layout()))
    with pytest.raises(EngineError, match="connected already, with pid 10"):
        engines.connected(EngineConnected(2, "a", 11, mock_layout()))
    other_rank = msgspec.structs.replace(mock_layout("float16"), tp_rank=1, tp_size=2)
    engines.connected(EngineConnected(3, "b", 12, other_rank))
    engines.check_offer(0, mock_layout().fingerprint())
    engines.check_offer(7, "any rank that is not here may still come")
    with pytest.raises(EngineError, match="layout 01234567 of the sender"):
        engines.check_offer(0, "0123456789")
    engines.closed(1)
    engines.check_offer(0, "0123456789")


def test_two_builds_stand_side_by_side_and_either_takes_what_fits_it() -> None:
    engines = Engines(frozenset({"old", "new"}))
    old, new = mock_layout(), mock_layout("float16")
    engines.connected(EngineConnected(1, "old", 10, old))
    engines.connected(EngineConnected(2, "new", 11, new))
    engines.check_offer(0, old.fingerprint())
    engines.check_offer(0, new.fingerprint())
    with pytest.raises(LayoutMismatch, match="layout 01234567 of the sender"):
        engines.check_offer(0, "0123456789")


def test_what_is_refused_leaves_no_trace() -> None:
    engines = Engines(frozenset({"a", "b"}))
    with pytest.raises(EngineError, match="not in the deployment here; known: a, b"):
        engines.connected(EngineConnected(1, "stranger", 10, mock_layout()))
    engines.connected(EngineConnected(2, "a", 10, mock_layout()))
    assert [entry.engine for entry in engines.entries()] == ["a"]
    assert engines.of(2).rank == 0
    with pytest.raises(EngineError, match="connection 3 has not registered"):
        engines.of(3)
