"""What the case study offers."""

from __future__ import annotations

import pytest
from benchmarks.case_study.load import evened


def test_evened_arrivals_keep_their_order_and_have_the_rate_in_every_stretch() -> None:
    times = [0.1 * n * n for n in range(1, 51)]
    found = evened(times, 4.0)
    assert found == sorted(found)
    assert [found[19], found[39], found[49]] == pytest.approx([5.0, 10.0, 12.5])
    assert found[1] - found[0] < found[19] - found[18]
