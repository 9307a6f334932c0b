"""From "which side" to a whole decision: an engine there, or the other side if it has none."""

from __future__ import annotations

from prfaas.policies.api import Decision, EngineView, RequestView, Route, View
from prfaas.policies.placement import prefill_engine, reachable


def offload(
    request: RequestView, view: View, decode: EngineView, why: str, *, now: float
) -> Decision:
    """Prefill in the PrfaaS cluster that is done first; `local` where none can be reached."""
    engines = [e for cluster, _ in reachable(view, decode.cluster) for e in cluster.prefill_engines]
    engine = prefill_engine(request, engines, view.costs, now=now)
    if engine is None:
        return local(request, view, decode, f"{why}, no PrfaaS engine in reach", now=now)
    return Decision(Route.OFFLOAD, engine.name, decode.name, why)


def local(
    request: RequestView, view: View, decode: EngineView, why: str, *, now: float
) -> Decision:
    """Prefill on a prefill engine of the decode engine's cluster; on the decode engine if none."""
    engines = view.cluster(decode.cluster).prefill_engines
    engine = prefill_engine(request, engines, view.costs, now=now)
    if engine is None:
        return Decision(Route.DIRECT, None, decode.name, f"{why}, no prefill engine up")
    return Decision(Route.PD_P, engine.name, decode.name, why)
