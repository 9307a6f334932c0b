"""What an engine may say about an export."""

from __future__ import annotations

import pytest

from prfaas.core.errors import EngineError
from prfaas.core.extents import Extent
from prfaas.link.api import TransferKey, TransferOffer
from prfaas.pool.events import ExportBegun, SlotFilled
from prfaas.pool.export import MOST_RANGES, Export, checked_extents, malformed
from prfaas.pool.lifecycle import ExportState
from prfaas.pool.records import Sent
from prfaas.testing.mock_engine_rank import MOCK_DIGEST


def test_neighbours_in_a_slot_are_joined() -> None:
    extents = (Extent(0, 32, 4), Extent(4, 36, 4), Extent(8, 44, 4))
    assert checked_extents(SlotFilled(1, "x", 2, extents), 16) == [Extent(0, 32, 8), extents[2]]


@pytest.mark.parametrize(("arena_offset", "length"), [(31, 1), (32, 17), (47, 2), (32, 0)])
def test_extents_lie_in_their_slot(arena_offset: int, length: int) -> None:
    with pytest.raises(EngineError, match="lies outside slot 2"):
        checked_extents(SlotFilled(1, "x", 2, (Extent(0, arena_offset, length),)), 16)


@pytest.mark.parametrize(
    "extents",
    [
        (Extent(0, 32, 4), Extent(128, 32, 16)),
        (Extent(0, 36, 4), Extent(128, 32, 5)),
        (Extent(0, 32, 16), Extent(64, 40, 1), Extent(32, 44, 4)),
    ],
)
def test_no_memory_is_of_two_ranges(extents: tuple[Extent, ...]) -> None:
    """What packs others' bytes into the gaps would not see which memory is free."""
    with pytest.raises(EngineError, match="share memory"):
        checked_extents(SlotFilled(1, "x", 2, extents), 16)


@pytest.mark.parametrize("deadline_s", [0.0, -1.0, float("nan"), float("inf"), 1e9])
def test_a_deadline_is_a_time_to_come(deadline_s: float) -> None:
    reason = malformed(ExportBegun(1, "x", "west", 0, 16, 5, deadline_s, MOCK_DIGEST, ("b",)))
    assert reason is not None
    assert reason.startswith("deadline_s")
    assert malformed(ExportBegun(1, "x", "west", 0, 16, 5, 1.0, MOCK_DIGEST, ("b",))) is None


def test_what_is_handed_over_has_not_gaps_without_end() -> None:
    """Each piece that comes before others costs as much as there are."""
    size = 1 << 20
    offer = TransferOffer(TransferKey("x", 0, 1), "layout", 0, 16, size, 60.0)
    export = Export(1, offer, "west", False, 60.0, Sent(offer.key, size, ExportState.SENDING))
    pieces = [Extent(2 * at, 0, 1) for at in range(MOST_RANGES)]
    for start in range(0, MOST_RANGES, 1024):
        assert len(export.take_new(pieces[start : start + 1024])) == 1024
    with pytest.raises(EngineError, match="too many pieces"):
        export.take_new([Extent(size - 1, 0, 1)])
    assert export.handed.total == MOST_RANGES
