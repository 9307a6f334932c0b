"""When a prompt's first token comes from a PrfaaS cluster, where engines are many: in arrays.

What `first_token.soonest_remote` says engine by engine, with the same arithmetic and order.
"""

from __future__ import annotations

from itertools import pairwise
from math import inf

import numpy as np

from prfaas.policies.api import View
from prfaas.policies.placement import reachable
from prfaas.policies.views import EngineView, LinkView, RequestView


class ManyRemote:
    """The PrfaaS engines that one request could use, as the queues are at ``now``."""

    def __init__(self, request: RequestView, view: View, now: float) -> None:
        self._request, self._view = request, view
        columns = self._columns = view.columns
        at = columns.remote.numbers
        uncached = np.maximum(request.total_tokens - columns.of(request.cached), 1.0)
        prefilled_s = columns.prefill_times(uncached)[at] + columns.waits_s(now)[at]
        self._prefilled_s = np.where(columns.up[at] > 0, prefilled_s, inf)

    def soonest(
        self, decode: EngineView, *, without: LinkView | None = None
    ) -> tuple[EngineView | None, float]:
        """The engine whose first token is at ``decode`` first, and in how many seconds; of equals
        the one that has prefilled first. (None, infinity) if there is none."""
        columns, view, request = self._columns, self._view, self._request
        size = view.costs.kv_bytes(request.cached.get(decode.name, 0), request.total_tokens)
        last = view.costs.kv_bytes(0, 0)
        prefilled_s = self._prefilled_s
        givers = view.givers(decode.name)
        if givers is not None:
            prefilled_s = np.where(givers[columns.remote.numbers], prefilled_s, inf)
        carried_s = np.full(len(columns.sources), inf)
        tail_s = np.zeros(len(columns.sources))
        place = {source.name: number for number, source in enumerate(columns.sources)}
        for cluster, link in reachable(view, decode.cluster):
            if link is not without:
                rate, number = link.rate_bytes_per_s, place[cluster.name]
                carried_s[number] = (link.outstanding_bytes + size) / rate
                tail_s[number] = last / rate + link.rtt_s / 2
        best, best_s, best_prefilled_s = -1, inf, inf
        for number, (start, end) in enumerate(pairwise(columns.remote.starts)):
            if start == end or carried_s[number] == inf:
                continue
            first = start + int(prefilled_s[start:end].argmin())
            done_s = float(prefilled_s[first])
            seconds = max(done_s, float(carried_s[number])) + float(tail_s[number])
            if seconds < best_s or (seconds == best_s and done_s < best_prefilled_s):
                best, best_s, best_prefilled_s = first, seconds, done_s
        if best < 0 or best_s == inf:
            return None, inf
        return columns.engines[columns.remote.numbers[best]], best_s
