"""TTFT without queues as in Table 6, with queues against known queues."""

from __future__ import annotations

from math import inf

import pytest

from prfaas.models.interpolation import Table
from prfaas.models.kv_size import KvSize
from prfaas.models.profiles import PrefillProfile, load_profile
from prfaas.planner.queueing import Pool, erlang_c, estimate_ttft, highest_rate
from prfaas.workload.lengths import EmpiricalLengths, TruncatedLogNormal

H200 = load_profile("paper-1t-h200").prefill_or_refuse
H20 = load_profile("paper-1t-h20-fit").prefill_or_refuse
PAPER = TruncatedLogNormal(9.9, 1.0, 128, 131072)
KV = KvSize(172 * 2**20, 17280)
SPLIT = [Pool(H200, 4, 19_400, inf, 12.5e9, 0.02), Pool(H20, 3, -inf, 19_400)]
ONE_SECOND = PrefillProfile(Table([1000], [1.0], interpolation="linear", what="t"))


@pytest.mark.parametrize(
    ("pools", "mean", "p90"),
    [(SPLIT, 2.22, 3.51), ([Pool(H20, 9, -inf, inf)], 4.44, 9.73)],
)
def test_table_6_contains_no_queueing(pools: list[Pool], mean: float, p90: float) -> None:
    ttft = estimate_ttft(PAPER, KV, pools, 1.0, queueing=False)
    assert ttft.mean_s == pytest.approx(mean, rel=0.01)
    assert ttft.p90_s == pytest.approx(p90, rel=0.01)


def test_erlang_c_of_one_server_is_its_utilisation() -> None:
    assert erlang_c(1, 0.7) == pytest.approx(0.7)
    assert erlang_c(2, 1.0) == pytest.approx(1 / 3)
    assert erlang_c(3, 3.0) == 1.0


def test_one_deterministic_server_waits_as_pollaczek_khinchine_says() -> None:
    lengths = EmpiricalLengths([500.0])
    ttft = estimate_ttft(lengths, KV, [Pool(ONE_SECOND, 1, -inf, inf)], 0.8, queueing=True)
    assert ttft.mean_s == pytest.approx(1 + 0.8 / (2 * 0.2))


def test_waits_grow_with_load_until_overload() -> None:
    means = [estimate_ttft(PAPER, KV, SPLIT, rate, queueing=True).mean_s for rate in (0.1, 2, 3)]
    assert means == sorted(means)
    assert estimate_ttft(PAPER, KV, SPLIT, 3.3, queueing=True).p99_s == inf


def test_a_full_line_is_overload_too() -> None:
    pools = [Pool(H200, 4, -inf, inf, 1e8)]
    assert estimate_ttft(PAPER, KV, pools, 1.0, queueing=True).mean_s == inf


def test_the_state_shows_as_it_can_only_leave_at_the_end() -> None:
    lengths = EmpiricalLengths([500.0])
    pool = Pool(ONE_SECOND, 100, -inf, inf, 1e9, 0.02)
    ttft = estimate_ttft(lengths, KvSize(1e8, 0), [pool], 1e-9, queueing=True)
    assert ttft.p50_s == pytest.approx(1 + 0.1 + 0.01, rel=1e-3)


def test_highest_rate_meets_the_bound_and_hardly_more() -> None:
    rate = highest_rate(PAPER, KV, SPLIT, limit=3.2, ttft_s=6.0, percentile=0.9)
    assert estimate_ttft(PAPER, KV, SPLIT, rate, queueing=True).p90_s <= 6.0
    assert estimate_ttft(PAPER, KV, SPLIT, rate * 1.01, queueing=True).p90_s > 6.0
    assert highest_rate(PAPER, KV, SPLIT, limit=3.2, ttft_s=1.0, percentile=0.9) == 0
