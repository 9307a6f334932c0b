"""How much decoding a PD cluster has to do, seen from its counters.

The scheduler's view says how many answers run, wait and have been completed. From these follow, by
Little's law, how long an answer holds its slot, how fast slots become free, and how many decode
engines the load needs (equation 8 of the paper). Before the first is complete, what was learned of
decode steps says how long a slot is held (`Costs.answer_s`). An engine's slots are bounded by its
batch and by its KV memory, for answers of the size that is seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, exp, inf, sqrt

import numpy as np

from prfaas.policies.columns import Columns, Floats
from prfaas.policies.views import ClusterView, Costs, EngineView

_MEMORY_S = 60.0
"""How far back the load is remembered: some answers' length."""
_SPREAD = 1.5
"""Standard deviations of the number of answers under way (it is about Poisson) for which slots are
kept, or a burst would wait for slots that its prefills no longer need."""
_TO_SPARE = 0.7
"""Prefill has an engine to spare where the others would be busy for no more of their time, or"""
_SELDOM = 0.1
"""where the only one is: other clusters, and what decode leaves free, take over."""
_DOUBT = 1.5
"""Answers end in clumps: what waits for a slot counts as so much more."""


class DecodeLoad:
    """The decoding of one cluster; `look` is called at regular times, in seconds."""

    def __init__(self) -> None:
        self._at: float | None = None
        self._completed = 0
        self._rate = 0.0
        self._running = 0.0
        self._wanted = 0.0
        """Answers that run or wait for a slot, on the average."""
        self._prefilling = 0.0
        """Prefill engines at work, on the average."""
        self.answer_tokens = 0.0
        """KV memory that one takes, smoothed."""
        self.slots = 0.0
        """The most answers of late that ran or waited for a slot, fading."""
        self._expected_s = 0.0
        """How long one should hold its slot, by what was learned; 0: nothing was."""

    def look(self, cluster: ClusterView, costs: Costs, now: float) -> None:
        """Take the counters in."""
        up = [engine for engine in cluster.decode_engines if engine.up]
        each_s = [costs.answer_s(engine.name, engine.max_requests) for engine in up]
        self._expected_s = sum(each_s) / len(each_s) if each_s else 0.0
        decoding = sum(engine.decoding for engine in cluster.engines if engine.role == "decode")
        wanted = decoding + cluster.waiting_for_decode
        prefilling = sum(e.prefills > 0 for e in cluster.engines if e.role == "prefill")
        if self._at is not None and now > self._at:
            passed = now - self._at
            fade = exp(-passed / _MEMORY_S)
            rate = (cluster.completed - self._completed) / passed
            self._rate = fade * self._rate + (1 - fade) * rate
            self._running = fade * self._running + (1 - fade) * decoding
            self._wanted = fade * self._wanted + (1 - fade) * wanted
            self._prefilling = fade * self._prefilling + (1 - fade) * prefilling
            running = sum(engine.running for engine in cluster.engines)
            if running:
                each = sum(engine.kv_used for engine in cluster.engines) / running
                self.answer_tokens = fade * (self.answer_tokens or each) + (1 - fade) * each
            self.slots = max(wanted, fade * self.slots + (1 - fade) * wanted)
        self._at, self._completed = now, cluster.completed

    def engines_needed(self, cluster: ClusterView) -> int:
        """Decode engines without which answers would wait: for the most of late, and for the
        average with room for its fluctuation; at least one."""
        return self._engines(cluster, max(self.slots, _with_room(self._wanted)))

    def engines_at_ease(self, cluster: ClusterView) -> int:
        """Decode engines with which nobody would wait if as many came on top of the most of late
        as come on top of an average: what is good to have, but worth no queue before prefill."""
        return self._engines(cluster, _with_room(self.slots))

    def spares_prefill(self, cluster: ClusterView) -> bool:
        """Whether prefill could do its work of late with one engine less."""
        engines = sum(e.up and e.role == "prefill" for e in cluster.engines)
        return self._prefilling < max(_SELDOM, _TO_SPARE * (engines - 1))

    def _engines(self, cluster: ClusterView, slots: float) -> int:
        engines = cluster.decode_engines or cluster.engines
        each = sum(self._slots(engine) for engine in engines) / len(engines)
        return max(1, ceil(slots / each))

    def slot_s(self, cluster: ClusterView) -> float:
        """Until a newcomer would have a decode slot, behind all who are on their way to one."""
        free, ahead, running = 0.0, 0, 0
        for engine in cluster.decode_engines:
            if engine.up:
                free += self.free_slots(engine)
                running += engine.running
            ahead += engine.assigned - engine.running
        return self.wait_s(free, ahead, running)

    def wait_s(self, free: float, ahead: float, running: float) -> float:
        """The same where so many slots are free, so many are on their way to one, and so many hold
        one of an engine that is up. Where nothing was seen of answers yet, nobody waits for long;
        where no engine is up, for ever."""
        if ahead + 1 <= free:
            return 0.0
        if self._rate <= 0 or self._running <= 0:
            if not (slots := running + free):
                return inf
            return _DOUBT * (ahead + 1 - free) * self._expected_s / max(1.0, slots)
        answer_s = self._running / self._rate
        return _DOUBT * (ahead + 1 - free) * answer_s / max(1, running)

    def free_slots(self, engine: EngineView) -> float:
        """How many more answers of the usual size ``engine`` holds."""
        return max(0.0, self._slots(engine) - engine.running)

    def _slots(self, engine: EngineView) -> float:
        """How many answers of the usual size run on ``engine`` at a time."""
        if not self.answer_tokens:
            return engine.max_requests
        return max(1.0, min(engine.max_requests, engine.kv_tokens / self.answer_tokens))


def _with_room(slots: float) -> float:
    """For fluctuation: so many that hardly ever more are wanted."""
    return slots + _SPREAD * sqrt(slots)


def slots_s(loads: Sequence[DecodeLoad], columns: Columns) -> Floats:
    """`DecodeLoad.slot_s` of each PD cluster."""
    at, owner = columns.decode.numbers, columns.decode.owner
    up, running, most = columns.up[at], columns.running[at], columns.max_requests[at]
    tokens = np.array([load.answer_tokens for load in loads])[owner]
    known = tokens > 0
    fit = columns.kv_tokens[at] / np.where(known, tokens, 1.0)
    slots = np.where(known, np.maximum(1.0, np.minimum(most, fit)), most)
    sums = [
        np.bincount(owner, of, len(loads)).tolist()
        for of in (
            np.maximum(0.0, slots - running) * up,
            columns.assigned[at] - running,
            running * up,
        )
    ]
    return np.array([load.wait_s(*of) for load, *of in zip(loads, *sums, strict=True)])
