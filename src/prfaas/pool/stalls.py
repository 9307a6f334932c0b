"""Which exports to stop when engines wait for slots and none comes free (`pool.slots` says why
that can happen)."""

from __future__ import annotations

from prfaas.pool.export import Export

STALL_S = 2.0
"""So long nobody who waits got a slot. The link offers again within a second, and the connector's
requests have many seconds left: long enough for what only looks stuck, short enough to matter."""
PATIENCE = 3
"""So much longer it takes where every receiver has taken something: a slow line is no stall."""


def exports_to_stop(holding: list[Export], stalled_s: float) -> tuple[list[Export], str]:
    """What to stop and why; nothing yet, perhaps.

    Of the exports whose receiver took nothing, the younger half of those that go where the youngest
    goes. If there are none, the youngest export, but only later.

    Args:
        holding: exports that hold filled slots, oldest first.
        stalled_s: how long someone has waited without anyone getting a slot.
    """
    if stalled_s < STALL_S:
        return [], ""
    untouched = [export for export in holding if not export.record.bytes_acknowledged]
    if untouched:
        youngest = untouched[-1]
        alike = [export for export in untouched if export.destination == youngest.destination]
        return alike[len(alike) // 2 :], "took nothing while memory ran out"
    if stalled_s < PATIENCE * STALL_S:
        return [], ""
    return holding[-1:], f"let no memory come free for {stalled_s:.0f} s"
