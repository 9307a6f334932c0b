"""What was seen, as functions of length."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.planner.pools import KV

from prfaas.models.profiles import load_profile
from prfaas.planner.demand import Demand
from prfaas.planner.pool_demand import ByLength, walked_demand
from prfaas.planner.pool_walk import Walk
from prfaas.workload.lengths import EmpiricalLengths

PD = load_profile("paper-1t-h20-fit")
FAR = load_profile("paper-1t-h200")


def test_means_are_of_requests_about_as_long_and_sums_are_kept() -> None:
    rng = np.random.default_rng(1)
    lengths = np.rint(rng.lognormal(8, 1, 2000))
    values = lengths / 1000 + rng.normal(size=2000)
    found = ByLength(lengths, values, 64)
    assert found(lengths).sum() == pytest.approx(values.sum())
    assert np.unique(found(lengths)).size == 64
    assert found(np.array([1.0, 1e9])).shape == (2,)
    few = np.array([5.0, 5.0, 7.0]), np.array([1.0, 3.0, 5.0])
    assert ByLength(*few, 1)(np.array([6.0])) == 3.0
    assert ByLength(*few, 3)(np.array([4.0, 5.0, 7.0, 8.0])).tolist() == [2.0, 2.0, 5.0, 5.0]


def test_a_demand_takes_what_a_prefill_took() -> None:
    lengths = np.array([1000.0, 2000.0, 3000.0])
    zeros = np.zeros(3)
    walked = Walk(
        prompts=2 * lengths,
        uncached=lengths,
        pd_s=PD.prefill_or_refuse.seconds(lengths) + 0.5,
        prfaas_s=FAR.prefill_or_refuse.seconds(lengths) + 0.25,
        sent_bytes=KV.bytes(lengths) + 100.0,
        pulled_bytes=zeros + 7.0,
        offloaded=zeros > 0,
        found={},
        fetch_s=zeros,
    )
    before = Demand(lengths=EmpiricalLengths([1.0]), output_tokens=9.0, kv=KV, tokens_per_s=20.0)
    found = walked_demand(before, walked, pd=PD.prefill_or_refuse, prfaas=FAR.prefill_or_refuse)
    assert found.lengths.mean() == 2000.0
    assert found.observed is not None
    assert found.observed.pd_s(lengths) == pytest.approx([0.5] * 3)
    assert found.observed.prfaas_s(lengths) == pytest.approx([0.25] * 3)
    assert found.sent_bytes()(lengths) == pytest.approx(KV.bytes(lengths) + 100.0)
    assert found.observed.pulled_bytes(lengths) == pytest.approx([7.0] * 3)
