"""Every way to serve one request now: when its first token would be out, and whom that delays.

Theory of operation. A candidate is a prefill engine (or a decode engine with time to spare) for a
PD cluster that decodes. Where there is nothing to hand over to the decode engine (`View`), it is
that engine itself, or another one with time to spare. Its time to first token is that of
`first_token`, or, if that is later, the time until a decode slot is free. Beside it stands the
delay that it brings to those behind it: its own prefill time, once for each request that is queued
there now. (About as many will come while it waits as it finds before it.) Where that has weight, a
long queue is left to those who gain most from the engine at its end, as by the prices of the
planner's optimum: the long prompts go to the fast engines, whatever the order of arrival.

A line adds the time that the hand-off takes of it, for each transfer under way, where the line and
not the engines is what a newcomer waits for: the soonest engine at its end would be done before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from prfaas.policies.api import Route, View
from prfaas.policies.beside_batch import MAX_DIRECT, MIN_SHARE, expected_share, free_share
from prfaas.policies.placement import decode_engine, reachable
from prfaas.policies.views import ClusterView, EngineView, LinkView, RequestView


class Candidate(NamedTuple):
    """One way. ``prefill`` is None where the decode engine prefills itself."""

    ttft_s: float
    behind_s: float
    """The delay it brings to those behind it, together."""
    idle_s: float
    """The time to first token if nothing were before it."""
    wait_s: float
    """Until the engine that prefills has worked off what it has."""
    route: Route
    prefill: EngineView | None
    decode: EngineView


class Ways(Protocol):
    """All ways of one request. Of equals that one is taken whose engine is free first, then that
    delays others least, then the first."""

    def soonest(self) -> Candidate | None:
        """The one with the first token first; None if there is no way."""

    def idle_s(self) -> float:
        """The least time to first token if nothing were under way."""

    def best(self, limit_s: float, weight: float) -> Candidate | None:
        """Of those whose first token is out in time, near ones first, the one with the least time
        and ``weight`` times the delay for others."""


class FewWays:
    """`Ways`, as long as they are few: found engine by engine."""

    def __init__(self, ways: Iterator[Candidate], view: View) -> None:
        self._ways, self._view = list(ways), view

    def soonest(self) -> Candidate | None:
        """See `Ways`."""
        return min(self._ways, key=_soonest_first, default=None)

    def idle_s(self) -> float:
        """See `Ways`."""
        return min(way.idle_s for way in self._ways)

    def best(self, limit_s: float, weight: float) -> Candidate | None:
        """See `Ways`."""
        cluster = self._view.cluster
        return min(
            (way for way in self._ways if way.ttft_s <= limit_s),
            key=lambda way: (
                cluster(way.decode.cluster).far,
                way.ttft_s + weight * way.behind_s,
                way.wait_s,
                way.behind_s,
            ),
            default=None,
        )


def _soonest_first(way: Candidate) -> tuple[float, float, float]:
    return way.ttft_s, way.wait_s, way.behind_s


def candidates(
    request: RequestView, view: View, home: ClusterView, slot_s: float, now: float
) -> Iterator[Candidate]:
    """All ways to decode in ``home``. ``slot_s``: until a decode slot is free there."""
    decode = decode_engine(request, (home,))
    if decode is None:
        return
    yield from _beside_decode(request, view, home)
    if not view.hands_over(request, decode.name):
        yield _alone(request, view, decode, slot_s)
        return
    for engine in view.prefill_engines(home.name, decode.name):
        if engine.up:
            yield _local(request, view, engine, decode, slot_s, now)
    for cluster, link in reachable(view, home.name):
        engines = [e for e in view.prefill_engines(cluster.name, decode.name) if e.up]
        if engines:
            yield from _remote(
                request, view, engines, decode, _Sending(request, view, decode, link), slot_s, now
            )


def behind_direct(request: RequestView, view: View, home: ClusterView) -> Candidate | None:
    """For who has no other way in time: the decode engine of ``home``, although it prefills
    `MAX_DIRECT` prompts already. Half of the slots that its batch leaves stay for hand-offs."""
    engine = None if home.waiting_for_decode else decode_engine(request, (home,))
    if engine is None:
        return None
    most = (engine.max_requests - engine.decoding) // 2
    found = beside_batch(request, view, engine, most)
    return None if found is None else _direct(engine, *found)


def uncached_tokens(request: RequestView, engine: EngineView) -> int:
    """What ``engine`` would have to compute of the prompt: at least one token."""
    held = request.cached.get(engine.name, 0)
    if held:
        held = min(held, request.resumable.get(engine.name, held))
    return max(1, request.total_tokens - held)


def prefill_s(request: RequestView, view: View, engine: EngineView) -> float:
    """Seconds until ``engine`` alone would have all of the prompt: what it takes to fetch what is
    cached elsewhere, and to compute the rest."""
    own_s = view.costs.prefill_s(engine.name, uncached_tokens(request, engine))
    return own_s + request.fetch_s.get(engine.name, 0.0) if request.fetch_s else own_s


def _local(
    request: RequestView,
    view: View,
    engine: EngineView,
    decode: EngineView,
    slot_s: float,
    now: float,
) -> Candidate:
    own_s = prefill_s(request, view, engine)
    wait_s = max(0.0, engine.free_at - now)
    ttft_s = max(own_s + wait_s, slot_s)
    return Candidate(ttft_s, own_s * engine.prefills, own_s, wait_s, Route.PD_P, engine, decode)


class _Sending:
    """What the hand-off of one request takes of a line."""

    def __init__(
        self, request: RequestView, view: View, decode: EngineView, link: LinkView
    ) -> None:
        rate = link.rate_bytes_per_s
        size = view.costs.kv_bytes(request.cached.get(decode.name, 0), request.total_tokens)
        self.own_s = size / rate
        self.wait_s = link.outstanding_bytes / rate
        self.tail_s = view.costs.kv_bytes(0, 0) / rate + link.rtt_s / 2
        self.behind_s = self.own_s * link.transfers


def _remote(
    request: RequestView,
    view: View,
    engines: Sequence[EngineView],
    decode: EngineView,
    sending: _Sending,
    slot_s: float,
    now: float,
) -> Iterator[Candidate]:
    """Over the engines of one cluster that are up."""
    own = [prefill_s(request, view, e) for e in engines]
    waits = [max(0.0, e.free_at - now) for e in engines]
    carried_s = sending.wait_s + sending.own_s
    soonest_s = min(own_s + wait_s for own_s, wait_s in zip(own, waits, strict=True))
    line_behind_s = sending.behind_s if carried_s > soonest_s else 0.0
    for engine, own_s, wait_s in zip(engines, own, waits, strict=True):
        ttft_s = max(max(own_s + wait_s, carried_s) + sending.tail_s, slot_s)
        behind_s = own_s * engine.prefills + line_behind_s
        idle_s = max(own_s, sending.own_s) + sending.tail_s
        yield Candidate(ttft_s, behind_s, idle_s, wait_s, Route.OFFLOAD, engine, decode)


def _beside_decode(request: RequestView, view: View, home: ClusterView) -> Iterator[Candidate]:
    """Decode engines that prefill themselves, in the time that their batches leave free."""
    if home.waiting_for_decode:
        return
    for engine in home.decode_engines:
        found = beside_batch(request, view, engine) if engine.up else None
        if found is not None:
            yield _direct(engine, *found)


def _direct(engine: EngineView, wait_s: float, own_s: float) -> Candidate:
    behind_s = own_s * engine.prefills
    return Candidate(wait_s + own_s, behind_s, own_s, wait_s, Route.DIRECT, None, engine)


def _alone(request: RequestView, view: View, decode: EngineView, slot_s: float) -> Candidate:
    """The decode engine itself, whatever else it has to do: there is nothing to hand over to it."""
    free = max(MIN_SHARE, 1 - decode.decoding / decode.max_requests)
    own_s = prefill_s(request, view, decode) / free
    wait_s = max(decode.queued_s / free, slot_s)
    return _direct(decode, wait_s, own_s)


def beside_batch(
    request: RequestView, view: View, engine: EngineView, most: int = MAX_DIRECT
) -> tuple[float, float] | None:
    """How long a decode engine that prefills the prompt itself, beside its batch, would be at what
    it prefills already, and then at this; None if it has no time or no slot to spare, or ``most``
    prompts already."""
    if (
        free_share(engine) < MIN_SHARE
        or engine.prefills >= most
        or engine.running >= engine.max_requests
    ):
        return None
    if engine.running and engine.kv_used + request.kv_tokens > engine.kv_tokens:
        return None
    own_s = prefill_s(request, view, engine)
    share = expected_share(engine)
    return engine.queued_s / share, own_s / share
