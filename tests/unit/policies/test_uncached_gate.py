"""A fixed number of tokens that the decode engine lacks."""

from __future__ import annotations

import pytest

from prfaas.policies.api import Route
from prfaas.testing.policy_views import decide, fleet


@pytest.mark.parametrize(("held", "route"), [(488, Route.OFFLOAD), (489, Route.PD_P)])
def test_only_what_the_decode_engine_lacks_counts(held: int, route: Route) -> None:
    cached = {"d0": held, "d1": held}
    assert decide("uncached-gate", 1000, fleet(), cached=cached).route is route


def test_without_a_limit_everything_uncached_goes() -> None:
    assert decide("uncached-gate", 1, fleet(), options={"tokens": 0}).route is Route.OFFLOAD
