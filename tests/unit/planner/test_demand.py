"""The decode operating point."""

from __future__ import annotations

import pytest

from prfaas.core.errors import ConfigError
from prfaas.models.profiles import load_profile
from prfaas.planner.demand import Decode, decode_point

H20 = load_profile("paper-1t-h20-fit").decode_or_refuse


def test_the_largest_batch_that_keeps_the_promise() -> None:
    assert decode_point(H20, 40) == Decode(20, 0.025)
    assert Decode(20, 0.025).rate(5, 1024) == pytest.approx(3.90625)


def test_too_fast_a_promise_is_refused() -> None:
    with pytest.raises(ConfigError, match="no profiled decode batch keeps 50 tokens/s"):
        decode_point(H20, 50)
