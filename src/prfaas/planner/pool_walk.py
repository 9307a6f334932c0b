"""A trace, request by request, through the caches of its machines: what is found, where, at what
price.

Theory of operation. Requests come as in the trace, at a given rate, and everything of one is
decided when it comes: where, what is found, when it will be prefilled and answered; then its prefix
is cached. The books are the simulator's (`prfaas.workload.pools`), and places are chosen as its
policies do. Who prefills is who would be done first: each engine works its queue off meanwhile. Who
decodes is the least full, less the share of the prompt it holds; an answer holds its place for as
long as its tokens take. What is longer than the threshold, in tokens that neither side holds, is
prefilled in the PrfaaS cluster.

Of each request both sides are looked at, the one taken and the other: what either would take.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from heapq import heappop, heappush, nsmallest
from math import inf
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from prfaas.core.boundary import aligned_boundary
from prfaas.models.interpolation import FloatArray
from prfaas.models.profiles import PrefillProfile
from prfaas.planner.demand import Decode
from prfaas.planner.pool_site import PoolSite, WalkCosts
from prfaas.workload.pools import Reach
from prfaas.workload.trace import RecordedTrace

_WASTE = 4
"""As `prfaas.policies.routes` has it: who decodes prefills by itself where others lack so much."""
_NOTHING = Reach(0)
_SAID_EVERY = 4096
TIERS = ("own", "memory", "disk", "lan", "line")
"""Where a token is found: in the engine's own cache, its machine's memory or disk, another machine
of its cluster, the other cluster."""


class Way(NamedTuple):
    """Where and how a walk goes."""

    threshold: float
    n_p: int
    """PD engines that prefill; the others decode."""
    decode: Decode
    """Of each of those."""
    rate: float
    """Requests per second."""


class Walk(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen, an array of floats each with one entry a request, in the trace's order."""

    prompts: FloatArray
    uncached: FloatArray
    """Tokens that nobody holds: what a threshold looks at."""
    pd_s: FloatArray
    """To have the prompt where the PD cluster prefills it: fetching and computing."""
    prfaas_s: FloatArray
    sent_bytes: FloatArray
    """Of its hand-off over the line, if the PrfaaS cluster prefills it."""
    pulled_bytes: FloatArray
    """Of its prefix over the line, if the PD cluster does."""
    offloaded: NDArray[np.bool_]
    found: dict[str, FloatArray]
    """By tier: tokens that who prefilled did not compute."""
    fetch_s: FloatArray
    """What fetching those took."""


def walk(
    site: PoolSite,
    profiles: Mapping[str, PrefillProfile],
    way: Way,
    *,
    on_step: Callable[[str], None] = lambda _: None,
) -> Walk:
    """The whole trace, from empty caches.

    Args:
        profiles: by cluster.
        on_step: hears how far it is, now and then.
    Raises ConfigError for a prompt that is longer than a profile.
    """
    return _Walker(site, profiles, way).run(on_step)


def _times(trace: RecordedTrace, rate: float) -> list[float]:
    """When requests come: as they did, but at another rate; evenly where that is not known."""
    count, arrivals = len(trace.prompts), trace.arrivals
    if arrivals is None or not arrivals[-1]:
        return [number / rate for number in range(count)]
    factor = count / rate / arrivals[-1]
    return [at * factor for at in arrivals]


class _Side:
    """The engines of one cluster that may prefill, and when each is free."""

    def __init__(self, engines: list[str], costs: WalkCosts) -> None:
        self.engines, self._costs = engines, costs
        self._free_at = dict.fromkeys(engines, 0.0)

    def soonest(
        self, reaches: Mapping[str, Reach], cached: Mapping[str, int], prompt: int, now: float
    ) -> tuple[str, float]:
        """Who would be done first, and what it takes there beside the queue; infinite where nobody
        is."""
        best, best_done, best_s = "", inf, inf
        for engine, free_at in self._free_at.items():
            start = max(free_at, now)
            if start >= best_done:
                continue
            own_s = self._costs.prefill_s(engine, prompt - cached.get(engine, 0))
            own_s += reaches.get(engine, _NOTHING).fetch_s
            if start + own_s < best_done:
                best, best_done, best_s = engine, start + own_s, own_s
        return best, best_s

    def add(self, engine: str, seconds: float, now: float) -> float:
        """It prefills for so long; returns when it is done. (Who decodes beside it waits for
        nobody.)"""
        done = max(self._free_at.get(engine, now), now) + seconds
        if engine in self._free_at:
            self._free_at[engine] = done
        return done


class _Decoding:
    """The engines that decode: when each of their places is free again."""

    def __init__(self, engines: list[str], decode: Decode) -> None:
        self._decode = decode
        self._until: dict[str, list[float]] = {engine: [] for engine in engines}

    def least_full(self, cached: Mapping[str, int], prompt: int, now: float) -> str:
        """As `prfaas.policies.placement` has it."""
        for until in self._until.values():
            while until and until[0] <= now:
                heappop(until)
        return min(
            self._until,
            key=lambda engine: (
                len(self._until[engine]) / self._decode.batch - cached.get(engine, 0) / prompt
            ),
        )

    def add(self, engine: str, output: int, begins: float) -> None:
        """An answer; behind as many as there are places for it begins when one is free."""
        until, batch = self._until[engine], self._decode.batch
        if len(until) >= batch:
            begins = max(begins, nsmallest(len(until) - batch + 1, until)[-1])
        heappush(until, begins + output * self._decode.step_s)


class _Walker:
    def __init__(self, site: PoolSite, profiles: Mapping[str, PrefillProfile], way: Way) -> None:
        self._site, self._way = site, way
        self._costs = WalkCosts(site, profiles)
        self._pools = site.pools(self._costs)
        engines = list(site.pd.engines)
        self._decoding = _Decoding(engines[way.n_p :], way.decode)
        self._pd = _Side(engines[: way.n_p], self._costs)
        self._prfaas = _Side(list(site.prfaas.engines) if site.prfaas else [], self._costs)
        self._cluster_of = {m.name: m.cluster for m in site.machines}
        self._rows: list[tuple[float, ...]] = []

    def run(self, on_step: Callable[[str], None]) -> Walk:
        trace = self._site.trace
        requests = zip(trace.prompts, trace.outputs, trace.blocks, strict=True)
        times = _times(trace, self._way.rate)
        for number, (prompt, output, blocks) in enumerate(requests):
            if number % _SAID_EVERY == 0:
                on_step(f"request {number:,} of {len(trace.prompts):,}")
            self._request(prompt, output, blocks, times[number])
        columns = np.array(self._rows, dtype=np.float64).T
        return Walk(
            prompts=np.asarray(trace.prompts, dtype=np.float64),
            uncached=columns[0],
            pd_s=columns[1],
            prfaas_s=columns[2],
            sent_bytes=columns[3],
            pulled_bytes=columns[4],
            offloaded=columns[5] > 0,
            fetch_s=columns[6],
            found=dict(zip(TIERS, columns[7:], strict=True)),
        )

    def _request(self, prompt: int, output: int, blocks: list[int], now: float) -> None:
        pools, costs = self._pools, self._costs
        reaches = pools.reaches(blocks, prompt)
        cached = {e: self._tokens(reach.blocks, prompt) for e, reach in reaches.items()}
        decode = self._decoding.least_full(cached, prompt, now)
        held = cached.get(decode, 0)
        near, near_s = self._pd.soonest(reaches, cached, prompt, now)
        far, far_s = self._prfaas.soonest(reaches, cached, prompt, now)
        align = self._site.align_tokens
        first, end = held // align * align, aligned_boundary(prompt, align)
        alone = not near or _WASTE * (prompt - held) <= prompt - cached.get(near, 0)
        if alone or first >= end:
            near = decode
            near_s = costs.prefill_s(decode, prompt - held)
            near_s += reaches.get(decode, _NOTHING).fetch_s
        uncached, longer = self._uncached(cached, prompt)
        offloaded = bool(far) and first < end and (longer or uncached > self._way.threshold)
        engine, seconds = (far, far_s) if offloaded else (near, near_s)
        reach = reaches.get(engine, _NOTHING)
        done = (self._prfaas if offloaded else self._pd).add(engine, seconds, now)
        pools.taken(engine, reach, blocks, now)
        pools.computed(engine, blocks)
        if engine != decode:
            pools.handed_over(engine, decode, blocks, first, end)
        pools.answered(decode, blocks)
        self._decoding.add(decode, output, done)
        near_reach = reaches.get(near, _NOTHING)
        self._rows.append(
            (
                uncached,
                near_s,
                far_s if far else near_s,
                costs.kv_bytes(held, prompt)
                + self._over_line(reaches.get(decode, _NOTHING), prompt),
                self._over_line(near_reach, prompt),
                float(offloaded),
                reach.fetch_s,
                *self._found(reach, prompt),
            )
        )

    def _uncached(self, cached: Mapping[str, int], prompt: int) -> tuple[int, bool]:
        """Tokens that neither side holds, and whether the PrfaaS cluster holds so much more that it
        crosses the line sooner than it is computed; as `prfaas.policies.routes` has it."""
        here = max((cached.get(e, 0) for e in self._site.pd.engines), default=0)
        there = max((cached.get(e, 0) for e in self._prfaas.engines), default=0)
        line, near = self._site.line, self._pd.engines
        if there > here and line is not None and near:
            rate, rtt_s = line
            carried_s = self._costs.kv_bytes(here, there) / rate + rtt_s / 2
            if carried_s < self._costs.prefill_s(near[0], there - here):
                return prompt - there, True
        return prompt - here, False

    def _over_line(self, reach: Reach, prompt: int) -> float:
        """Bytes that a PD engine pulls from the other cluster."""
        if reach.source is None or self._cluster_of[reach.source] == self._site.pd.name:
            return 0.0
        start = self._tokens(reach.blocks - reach.pulled, prompt)
        return self._costs.kv_bytes(start, self._tokens(reach.blocks, prompt))

    def _found(self, reach: Reach, prompt: int) -> tuple[float, ...]:
        """Tokens by tier."""
        at = dict.fromkeys(TIERS, 0.0)
        end = self._tokens(reach.blocks, prompt)
        own = self._tokens(reach.own, prompt)
        rest = self._tokens(reach.blocks - reach.pulled, prompt)
        at["own"] = own
        if reach.source is not None:
            ours = self._cluster_of[reach.source] == self._site.pd.name
            at["lan" if ours else "line"] = end - rest
            at["memory"] = rest - own
        else:
            in_memory = self._tokens(reach.blocks - reach.read, prompt)
            at["memory"], at["disk"] = in_memory - own, end - in_memory
        return tuple(at[name] for name in TIERS)

    def _tokens(self, blocks: int, prompt: int) -> int:
        """The last of a prompt is always computed."""
        return min(blocks * self._site.trace.block_tokens, prompt - 1)
