"""Runs of equal values in an array."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def segments(values: NDArray[np.uint32]) -> list[tuple[int, int, int]]:
    """(start, end, value) of each run of equal values."""
    if len(values) == 1:
        return [(0, 1, int(values[0]))]
    if not len(values):
        return []
    starts = [0, *(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist()]
    return list(zip(starts, [*starts[1:], len(values)], values[starts].tolist(), strict=True))
