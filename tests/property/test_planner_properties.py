"""Invariants of lengths, profiles and the planner for any input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prfaas.models.interpolation import Table
from prfaas.models.kv_size import KvSize
from prfaas.models.profiles import DecodeProfile, InstanceProfile, PrefillProfile
from prfaas.planner.demand import Demand, decode_point
from prfaas.planner.fluid import fluid_optimum
from prfaas.planner.sites import Cluster, Line
from prfaas.planner.split import TwoClusters
from prfaas.workload.lengths import (
    EmpiricalLengths,
    HistogramLengths,
    LengthDistribution,
    TruncatedLogNormal,
)

HIGH = 100_000


@st.composite
def distributions(draw: st.DrawFn) -> LengthDistribution:
    kind = draw(st.sampled_from(["lognormal", "empirical", "histogram"]))
    if kind == "lognormal":
        mu, sigma = draw(st.floats(6, 10)), draw(st.floats(0.2, 1.5))
        return TruncatedLogNormal(mu, sigma, 100, HIGH)
    values = draw(st.lists(st.integers(1, HIGH), min_size=2, max_size=30, unique=True))
    if kind == "empirical":
        return EmpiricalLengths(values)
    weights = draw(st.lists(st.floats(0.1, 10), min_size=len(values) - 1, max_size=len(values) - 1))
    return HistogramLengths(sorted(values), weights)


def table(points: list[float]) -> Table:
    x = np.linspace(1000, HIGH, len(points))
    return Table(list(x), list(np.cumsum(points)), interpolation="linear", what="t")


rising = st.lists(st.floats(0.01, 3), min_size=2, max_size=5).map(table)


@given(distributions(), st.floats(0, HIGH))
def test_the_mean_is_the_mean_of_its_two_sides(lengths: LengthDistribution, cut: float) -> None:
    p = lengths.share_above(cut)
    above = lengths.mean(above=cut) if p > 1e-9 else 0.0
    below = lengths.mean(up_to=cut) if p < 1 - 1e-9 else 0.0
    assert p * above + (1 - p) * below == pytest.approx(lengths.mean(), rel=1e-4)
    if 1e-9 < p < 1 - 1e-9:
        assert lengths.low <= below <= cut <= above <= lengths.high


@given(distributions(), st.integers(0, 2**32 - 1))
def test_samples_stay_inside(lengths: LengthDistribution, seed: int) -> None:
    drawn = lengths.sample(np.random.default_rng(seed), 200)
    # Whole, as all bounds are here: rounding cannot leave them.
    assert lengths.low <= drawn.min()
    assert drawn.max() <= lengths.high


@given(rising, st.lists(st.floats(0, HIGH), min_size=1, max_size=20))
def test_tables_agree_with_themselves_and_rise(curve: Table, at: list[float]) -> None:
    each = curve.at_each(np.array(at))
    assert list(each) == pytest.approx([curve.at(x) for x in at])
    assert np.all(np.diff(curve.at_each(np.array(sorted(at)))) >= -1e-9)


@settings(max_examples=15)
@given(
    distributions(),
    rising,
    rising,
    st.integers(1, 6),
    st.integers(2, 8),
    st.floats(1e6, 1e11),
    st.floats(10, 5000),
)
def test_no_split_beats_the_fluid_bound(
    lengths: LengthDistribution,
    fast: Table,
    slow: Table,
    n_prfaas: int,
    n_pd: int,
    line: float,
    answer: float,
) -> None:
    demand = Demand(lengths=lengths, output_tokens=answer, kv=KvSize(1e8, 1e4), tokens_per_s=40)
    decode = DecodeProfile(Table([20], [0.025], interpolation="linear", what="d"))

    def profile(prefill: Table, decode: DecodeProfile | None) -> InstanceProfile:
        return InstanceProfile(
            name="p", hardware="x", gpus=8, source="test", basis="measured", note=None,
            model=None, prefill=PrefillProfile(prefill), decode=decode, kv=None,
        )  # fmt: skip

    clusters = [
        Cluster(name="e", kind="prfaas", profile=profile(fast, None), instances=n_prfaas),
        Cluster(name="w", kind="pd", profile=profile(slow, decode), instances=n_pd),
    ]
    model = TwoClusters(
        demand,
        prfaas=PrefillProfile(fast),
        pd_prefill=PrefillProfile(slow),
        decode=decode_point(decode, 40),
        line_bytes_per_s=line,
    )
    best = model.best(n_prfaas, n_pd, "exact")
    bound = fluid_optimum(
        demand, clusters, [Line(source="e", target="w", bytes_per_s=line)], buckets=32
    )
    assert best.lambda_max <= bound.upper_bound * (1 + 1e-6)
    assert bound.lambda_max <= bound.upper_bound * (1 + 1e-6)
    assert best.egress_bytes_per_s <= line * (1 + 1e-6)
    assert all(used <= 1 + 1e-6 for used in bound.utilisation.values())
