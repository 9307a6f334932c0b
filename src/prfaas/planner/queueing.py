"""Time to first token: without queues (as the paper's Table 6) and with an estimate of them.

Theory of operation. A request's TTFT is its wait for a prefill instance, its prefill, and what of
the transfer the prefill does not hide. Without queues it is a function of its length alone, and
percentiles are quantiles over lengths. With Poisson arrivals a pool of c instances is an M/G/c
queue: Erlang's C gives the probability of waiting, Allen and Cunneen's correction the mean wait
for this spread of prefill times, and the wait of those who wait is taken as exponential. That is
an estimate, good to some ten percent below 90% load; the simulator is for more.

On the line, transfers share the rate, so at utilisation u one proceeds at (1 - u) of it. Blocks
leave while the prefill runs; the recurrent state (S_kv's constant part) can only leave at its end.
"""

from __future__ import annotations

from math import inf

import msgspec
import numpy as np

from prfaas.models.interpolation import FloatArray
from prfaas.models.kv_size import KvSize
from prfaas.models.profiles import PrefillProfile
from prfaas.workload.lengths import Function, LengthDistribution

SAMPLES = 2000
PERCENTILES = (0.5, 0.9, 0.99)


class Pool(msgspec.Struct, frozen=True):
    """Prefill instances that serve the requests with lengths in (above, up_to]."""

    profile: PrefillProfile
    instances: int
    above: float
    up_to: float
    line_bytes_per_s: float | None = None
    """The line its KV must cross; None: it stays."""
    rtt_s: float = 0.0
    fetched_s: Function | None = None
    """Seconds of a prefill beyond the profile's, by length."""
    sent_bytes: Function | None = None
    """What crosses the line, by length; None: S_kv."""


class Ttft(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds to the first token at a request rate."""

    rate: float
    mean_s: float
    p50_s: float
    p90_s: float
    p99_s: float
    queueing: bool


class _Class(msgspec.Struct, frozen=True):
    """The sampled requests of one pool and the wait in front of it."""

    service_s: FloatArray
    waiting_share: float
    mean_wait_s: float

    def late(self, seconds: float) -> float:
        """How many of the samples take longer than ``seconds``, as an expectation."""
        slack = seconds - self.service_s
        if self.mean_wait_s == inf:
            return float(slack.size)
        if self.waiting_share <= 0:
            return float(np.count_nonzero(slack < 0))
        decay = self.waiting_share / self.mean_wait_s
        tail = self.waiting_share * np.exp(-decay * np.maximum(slack, 0.0))
        return float(np.where(slack < 0, 1.0, tail).sum())


def erlang_c(servers: int, load: float) -> float:
    """Probability that an arrival waits; ``load`` = rate x mean service time, in servers."""
    if load >= servers:
        return 1.0
    blocked = 1.0
    for n in range(1, servers + 1):
        blocked = load * blocked / (n + load * blocked)
    return blocked / (1 - load / servers * (1 - blocked))


def estimate_ttft(
    lengths: LengthDistribution, kv: KvSize, pools: list[Pool], rate: float, *, queueing: bool
) -> Ttft:
    """TTFT at ``rate`` requests per second; infinite where a pool is overloaded.

    Without ``queueing``: prefill alone, no wait and no exposed transfer, as in the paper.
    """
    classes = _classes(_sampled(lengths, pools), kv, rate, queueing=queueing)
    mean = sum(float(c.service_s.sum()) + c.service_s.size * c.mean_wait_s for c in classes)
    p50, p90, p99 = (_percentile(classes, q) for q in PERCENTILES)
    return Ttft(
        rate=rate, mean_s=mean / SAMPLES, p50_s=p50, p90_s=p90, p99_s=p99, queueing=queueing
    )


def _sampled(lengths: LengthDistribution, pools: list[Pool]) -> list[tuple[Pool, FloatArray]]:
    """Equally likely lengths, by the pool that serves them."""
    sample = lengths.quantile((np.arange(SAMPLES) + 0.5) / SAMPLES)
    served = [(pool, sample[(sample > pool.above) & (sample <= pool.up_to)]) for pool in pools]
    return [(pool, mine) for pool, mine in served if mine.size]


def _classes(
    served: list[tuple[Pool, FloatArray]], kv: KvSize, rate: float, *, queueing: bool
) -> list[_Class]:
    return [_class_of(pool, mine, kv, rate, queueing=queueing) for pool, mine in served]


def _class_of(pool: Pool, mine: FloatArray, kv: KvSize, rate: float, *, queueing: bool) -> _Class:
    prefill = pool.profile.seconds(mine)
    if pool.fetched_s is not None:
        prefill = prefill + pool.fetched_s(mine)
    if not queueing:
        return _Class(prefill, 0.0, 0.0)
    arrivals = rate * mine.size / SAMPLES
    mean = float(prefill.mean())
    load = arrivals * mean
    visible = prefill
    if pool.line_bytes_per_s is not None:
        sent = kv.bytes(mine) if pool.sent_bytes is None else pool.sent_bytes(mine)
        free = pool.line_bytes_per_s * (1 - arrivals * float(sent.mean()) / pool.line_bytes_per_s)
        if free <= 0:
            return _Class(prefill, 1.0, inf)
        state_s = kv.constant_bytes / free
        visible = np.maximum(prefill + state_s, sent / free) + pool.rtt_s / 2
    if load >= pool.instances:
        return _Class(visible, 1.0, inf)
    waiting = erlang_c(pool.instances, load)
    spread = 1 + float(prefill.var()) / mean**2
    wait = waiting * mean / (pool.instances - load) * spread / 2
    return _Class(visible, waiting, wait)


def _late_share(classes: list[_Class], seconds: float) -> float:
    """Share of requests whose first token takes longer than ``seconds``."""
    return sum(c.late(seconds) for c in classes) / SAMPLES


def _percentile(classes: list[_Class], share: float) -> float:
    if any(c.mean_wait_s == inf for c in classes):
        return inf
    low, high = 0.0, max(float(c.service_s.max()) for c in classes)
    while _late_share(classes, high) > 1 - share:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _late_share(classes, middle) > 1 - share else (low, middle)
    return high


def highest_rate(
    lengths: LengthDistribution,
    kv: KvSize,
    pools: list[Pool],
    *,
    limit: float,
    ttft_s: float,
    percentile: float,
) -> float:
    """The highest rate below ``limit`` at which the percentile (0..1) of TTFT is within ``ttft_s``.

    0 where even an idle system misses it.
    """

    served = _sampled(lengths, pools)

    def met(rate: float) -> bool:
        classes = _classes(served, kv, rate, queueing=True)
        return _late_share(classes, ttft_s) <= 1 - percentile

    low, high = 0.0, limit
    if not met(limit * 1e-6):
        return 0.0
    for _ in range(24):
        middle = (low + high) / 2
        low, high = (middle, high) if met(middle) else (low, middle)
    return low
