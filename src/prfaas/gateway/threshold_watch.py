"""The threshold that the deployment would need now, searched again as things change, for show."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable

from prfaas.policies.api import View
from prfaas.policies.threshold_search import Optimum, search_threshold, usual_lengths
from prfaas.scheduler.events import RequestArrived

logger = logging.getLogger(__name__)

_EVERY_S, _SHARE = 5.0, 0.002
"""A search takes some milliseconds for each cluster; what is shown need not be newer, and is older
where it would take more than this share of a core."""
_PROMPTS = 256
"""So many of the last are looked at: minutes of traffic, and as exact as a threshold need be."""
_SOME = 32
"""Fewer say less than the usual lengths do."""
_NEWS = 1.25
"""A threshold that has moved by less is not logged."""


class ThresholdWatch:
    """``found``: PD cluster -> the optimum; those to which nothing can be offloaded are missing."""

    def __init__(self, view: Callable[[], View]) -> None:
        self._view = view
        self._lengths: deque[int] = deque(maxlen=_PROMPTS)
        self._usual = usual_lengths()
        self._logged: dict[str, int] = {}
        self.found: dict[str, Optimum] = {}

    def arrived(self, event: RequestArrived) -> None:
        """One more prompt."""
        held = max(event.cached.values(), default=0)
        self._lengths.append(max(1, event.total_tokens - held))

    async def run(self) -> None:
        """Search now and then, for ever."""
        while True:
            took_s = await self.search()
            await asyncio.sleep(max(_EVERY_S, took_s / _SHARE))

    async def search(self) -> float:
        """By the prompts, costs, lines and roles of now; returns the CPU seconds that it took.
        Requests have a turn between clusters."""
        view = self._view()
        lengths = self._lengths if len(self._lengths) >= _SOME else self._usual
        found, took_s = {}, 0.0
        for cluster in view.pd_clusters:
            await asyncio.sleep(0)
            began = time.thread_time()
            optimum = search_threshold(view, cluster, list(lengths))
            took_s += time.thread_time() - began
            if optimum is not None:
                found[cluster.name] = optimum
                self._tell(cluster.name, optimum)
        self.found = found
        return took_s

    def _tell(self, cluster: str, optimum: Optimum) -> None:
        tokens = optimum.threshold_tokens
        before = self._logged.get(cluster)
        if before is None or not before / _NEWS <= tokens <= before * _NEWS:
            self._logged[cluster] = tokens
            logger.info(
                "%s: a threshold of %d tokens would carry most, %.3g prompts/s, bound by %s",
                cluster,
                tokens,
                optimum.prompts_per_s,
                optimum.bound,
            )
