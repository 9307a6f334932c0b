"""The threshold that the deployment would need now, searched again as things change, for show."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from prfaas.policies.api import View
from prfaas.policies.threshold_search import Optimum, search_threshold, usual_lengths
from prfaas.scheduler.events import RequestArrived

logger = logging.getLogger(__name__)

_EVERY_S = 5.0
"""A search takes some milliseconds; what is shown need not be newer."""
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
            await self.search()
            await asyncio.sleep(_EVERY_S)

    async def search(self) -> None:
        """By the prompts, costs, lines and roles of now. Requests have a turn between clusters."""
        view = self._view()
        lengths = self._lengths if len(self._lengths) >= _SOME else self._usual
        found = {}
        for cluster in view.pd_clusters:
            await asyncio.sleep(0)
            optimum = search_threshold(view, cluster, list(lengths))
            if optimum is not None:
                found[cluster.name] = optimum
                self._tell(cluster.name, optimum)
        self.found = found

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
