"""How long a newcomer would wait: for a prefill engine, or for the PrfaaS clusters and their lines.

The wait for a line is what waits for it over what it carries *now*. A line that is nearly full
counts as a wait that grows, so that it is seen before queues build.
"""

from __future__ import annotations

from prfaas.policies.api import View
from prfaas.policies.views import ClusterView

_NEARLY_FULL = 0.9
"""From this utilisation on a line counts as one with a queue."""
_LONGEST_S = 60.0
"""What no line and no engine can do counts as so long."""


def prefill_wait_s(cluster: ClusterView, now: float) -> float:
    """Until the first prefill engine of ``cluster`` is free; 0 if there is none."""
    waits = [max(0.0, e.free_at - now) for e in cluster.prefill_engines if e.up]
    return min(waits, default=0.0)


def remote_wait_s(view: View, target: ClusterView, now: float) -> float:
    """The same for the PrfaaS clusters that reach ``target``: engines or line, whichever is worse.
    At most a minute, also if none does."""
    best = float("inf")
    for cluster in view.prfaas_clusters:
        link = view.link(cluster.name, target.name)
        if link is not None and link.up:
            line_s = link.outstanding_bytes / link.rate_bytes_per_s
            if link.utilisation > _NEARLY_FULL:
                line_s += 10 * (link.utilisation - _NEARLY_FULL) * (1 + link.congestion)
            best = min(best, max(prefill_wait_s(cluster, now), line_s))
    return min(best, _LONGEST_S)
