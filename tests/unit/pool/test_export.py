"""What an engine may say about an export."""

from __future__ import annotations

import pytest

from prfaas.core.errors import EngineError
from prfaas.core.extents import Extent
from prfaas.pool.events import ExportBegun, SlotFilled
from prfaas.pool.export import checked_extents, malformed
from prfaas.testing.mock_engine_rank import MOCK_DIGEST


def test_neighbours_in_a_slot_are_joined() -> None:
    extents = (Extent(0, 32, 4), Extent(4, 36, 4), Extent(8, 44, 4))
    assert checked_extents(SlotFilled(1, "x", 2, extents), 16) == [Extent(0, 32, 8), extents[2]]


@pytest.mark.parametrize(("arena_offset", "length"), [(31, 1), (32, 17), (47, 2), (32, 0)])
def test_extents_lie_in_their_slot(arena_offset: int, length: int) -> None:
    with pytest.raises(EngineError, match="lies outside slot 2"):
        checked_extents(SlotFilled(1, "x", 2, (Extent(0, arena_offset, length),)), 16)


@pytest.mark.parametrize("deadline_s", [0.0, -1.0, float("nan"), float("inf"), 1e9])
def test_a_deadline_is_a_time_to_come(deadline_s: float) -> None:
    reason = malformed(ExportBegun(1, "x", "west", 0, 16, 5, deadline_s, MOCK_DIGEST, ("b",)))
    assert reason is not None
    assert reason.startswith("deadline_s")
    assert malformed(ExportBegun(1, "x", "west", 0, 16, 5, 1.0, MOCK_DIGEST, ("b",))) is None
