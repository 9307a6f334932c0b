"""Every way to serve one request, where there are many: all at once, in arrays.

Theory of operation. What `route_choice.candidates` says engine by engine stands here kind by kind:
ways over decode engines that prefill themselves, over the prefill engines of each PD cluster, and
over those of PrfaaS clusters, of which there is one for each PD cluster. The arithmetic and the
order are the same, and so is the choice. Below some fifty engines it takes longer than a loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from math import inf
from typing import NamedTuple

import numpy as np

from prfaas.policies.api import Route, View
from prfaas.policies.columns import Bools, Floats, Lines, Listed
from prfaas.policies.route_choice import MAX_DIRECT, MIN_SHARE, Candidate
from prfaas.policies.views import RequestView


class _Kind(NamedTuple):
    """Ways of one kind, flat, home by home. ``there``: those that there are; the other fields stand
    beside. Where there is none, times are as they come."""

    route: Route
    there: Bools
    ttft_s: Floats
    behind_s: Floats
    idle_s: Floats
    wait_s: Floats


class ManyWays:
    """`Ways` of one request.

    Args:
        slot_s: for each PD cluster, until a decode slot is free there.
    """

    def __init__(self, request: RequestView, view: View, slot_s: Floats, now: float) -> None:
        self._view, self._columns = view, view.columns
        columns = self._columns
        self._held = columns.of(request.cached)
        self._decodes = self._decode_engines(request)
        self._own_s = columns.prefill_times(self._uncached(request))
        if request.fetch_s:
            self._own_s = self._own_s + columns.of(request.fetch_s)
        self._wait_s = columns.waits_s(now)
        self._done_s = self._own_s + self._wait_s
        self._slot_s = slot_s
        self._gives = np.array(
            [
                decode >= 0 and view.hands_over(request, columns.engines[decode].name)
                for decode in self._decodes
            ],
            np.bool_,
        )
        self._kinds = (self._direct(request), self._alone(), self._local(), self._remote(request))

    def __iter__(self) -> Iterator[Candidate]:
        """In the order in which the first of equals is chosen."""
        every = (
            (self._home(number, place), number, place)
            for number, kind in enumerate(self._kinds)
            for place in np.flatnonzero(kind.there).tolist()
        )
        return (self._candidate(number, place) for _, number, place in sorted(every))

    def soonest(self) -> Candidate | None:
        """See `Ways`."""
        found = self._least(lambda kind: np.where(kind.there, kind.ttft_s, inf))
        return found if found is not None else next(iter(self), None)

    def idle_s(self) -> float:
        """See `Ways`."""
        least = (np.where(k.there, k.idle_s, inf).min(initial=inf) for k in self._kinds)
        return float(min(least))

    def best(self, limit_s: float, weight: float) -> Candidate | None:
        """See `Ways`."""
        scores = [
            np.where(
                kind.there & (kind.ttft_s <= limit_s), kind.ttft_s + weight * kind.behind_s, inf
            )
            for kind in self._kinds
        ]
        far = self._columns.far
        if far.any():
            near = [
                np.where(self._spread(number, far) > 0, inf, score)
                for number, score in enumerate(scores)
            ]
            found = self._first(near)
            if found is not None:
                return found
        return self._first(scores)

    def _least(self, score: Callable[[_Kind], Floats]) -> Candidate | None:
        return self._first([score(kind) for kind in self._kinds])

    def _first(self, scores: list[Floats]) -> Candidate | None:
        """The first of the least, by wait, delay, home and then by kind; None where all are
        infinite."""
        least = min((float(score.min()) for score in scores if score.size), default=inf)
        if least == inf:
            return None
        found: list[tuple[float, float, int, int, int]] = []
        for number, (score, kind) in enumerate(zip(scores, self._kinds, strict=True)):
            places = np.flatnonzero(score == least)
            if places.size:  # An idle fleet is one tie. Homes stand in order within a kind.
                for then in (kind.wait_s, kind.behind_s):
                    places = places[then[places] == then[places].min()]
                place = int(places[0])
                after = float(kind.wait_s[place]), float(kind.behind_s[place])
                found.append((*after, self._home(number, place), number, place))
        return self._candidate(*min(found)[3:])

    def _home(self, number: int, place: int) -> int:
        listed = self._listed(number)
        if number == _ALONE:
            return place
        return place // len(listed.numbers) if number == _REMOTE else int(listed.owner[place])

    def _listed(self, number: int) -> Listed:
        columns = self._columns
        return (columns.decode, columns.decode, columns.local, columns.remote)[number]

    def _spread(self, number: int, of_homes: Floats) -> Floats:
        """What is given for each home, for each way of a kind."""
        listed = self._listed(number)
        if number == _ALONE:
            return of_homes
        if number == _REMOTE:
            return np.repeat(of_homes, len(listed.numbers))
        return of_homes[listed.owner]

    def _candidate(self, number: int, place: int) -> Candidate:
        kind, engines = self._kinds[number], self._columns.engines
        numbers = self._decodes if number == _ALONE else self._listed(number).numbers
        engine = engines[numbers[place % len(numbers)]]
        ttft_s, behind_s = float(kind.ttft_s[place]), float(kind.behind_s[place])
        times = ttft_s, behind_s, float(kind.idle_s[place]), float(kind.wait_s[place])
        if number in (_DIRECT, _ALONE):
            return Candidate(*times, kind.route, None, engine)
        decode = self._decodes[self._home(number, place)]
        return Candidate(*times, kind.route, engine, engines[decode])

    def _decode_engines(self, request: RequestView) -> list[int]:
        """For each home the number of the engine that is to decode; -1 where none is up. Chosen as
        `placement.decode_engine` does."""
        columns, listed = self._columns, self._columns.decode
        at = listed.numbers
        score = columns.assigned[at] / columns.max_requests[at] + columns.far[listed.owner]
        score += columns.unpaired[at]
        if request.cached:
            score -= self._held[at] / request.total_tokens
        score[columns.up[at] == 0] = inf
        found = []
        for start, end in zip(listed.starts, listed.starts[1:], strict=False):
            best = start + int(score[start:end].argmin()) if end > start else -1
            found.append(int(at[best]) if best >= 0 and score[best] < inf else -1)
        return found

    def _uncached(self, request: RequestView) -> Floats:
        """What each engine would have to compute of the prompt: at least one token."""
        held = self._held
        if request.resumable:
            held = np.minimum(held, self._columns.of(request.resumable, otherwise=inf))
        return np.maximum(request.total_tokens - held, 1.0)

    def _direct(self, request: RequestView) -> _Kind:
        """Decode engines that prefill themselves, in the time that their batches leave free."""
        columns, listed = self._columns, self._columns.decode
        at = listed.numbers
        open_homes = [
            decode >= 0 and not home.waiting_for_decode
            for decode, home in zip(self._decodes, columns.homes, strict=True)
        ]
        running, prefills = columns.running[at], columns.prefills[at]
        free = 1 - columns.decoding[at] / columns.max_requests[at]
        there = np.array(open_homes, np.bool_)[listed.owner] & (columns.up[at] > 0)
        there &= (free >= MIN_SHARE) & (prefills < MAX_DIRECT)
        there &= running < columns.max_requests[at]
        fits = columns.kv_used[at] + request.kv_tokens <= columns.kv_tokens[at]
        there &= fits | (running == 0)
        free[~there] = 1.0
        own_s = self._own_s[at] / free
        wait_s = columns.queued_s[at] / free
        return _Kind(Route.DIRECT, there, wait_s + own_s, own_s * prefills, own_s, wait_s)

    def _alone(self) -> _Kind:
        """The decode engine itself, for each home, where there is nothing to hand over to it."""
        columns, at = self._columns, np.array(self._decodes, np.intp)
        there = ~self._gives & (at >= 0)
        free = np.maximum(MIN_SHARE, 1 - columns.decoding[at] / columns.max_requests[at])
        own_s = self._own_s[at] / free
        wait_s = np.maximum(columns.queued_s[at] / free, self._slot_s)
        behind_s = own_s * columns.prefills[at]
        return _Kind(Route.DIRECT, there, wait_s + own_s, behind_s, own_s, wait_s)

    def _local(self) -> _Kind:
        """Prefill engines of the cluster that decodes."""
        columns, listed = self._columns, self._columns.local
        at = listed.numbers
        there = self._gives[listed.owner] & (columns.up[at] > 0)
        for home, givers in self._some_givers():
            places = slice(listed.starts[home], listed.starts[home + 1])
            there[places] &= givers[at[places]]
        own_s = self._own_s[at]
        ttft_s = np.maximum(self._done_s[at], self._slot_s[listed.owner])
        behind_s = own_s * columns.prefills[at]
        return _Kind(Route.PD_P, there, ttft_s, behind_s, own_s, self._wait_s[at])

    def _remote(self, request: RequestView) -> _Kind:
        """Engines of PrfaaS clusters: a row for each home, then made flat."""
        columns, listed = self._columns, self._columns.remote
        at = listed.numbers
        lines = Lines(columns, self._sizes(request), self._view.costs.kv_bytes(0, 0))
        usable = lines.up & self._gives[:, None]
        there = listed.spread(usable) & (columns.up[at] > 0)
        for home, givers in self._some_givers():
            there[home] &= givers[at]
        done_s, own_s = self._done_s[at], self._own_s[at]
        tail_s, carried_s = listed.spread(lines.tail_s), listed.spread(lines.carried_s)
        # Where the line is what one waits for, its transfers are delayed too.
        waits = lines.carried_s > self._soonest_of_sources(there, done_s)
        behind_s = own_s * columns.prefills[at] + listed.spread(lines.behind_s * waits)
        ttft_s = np.maximum(done_s, carried_s, out=carried_s)
        ttft_s += tail_s
        np.maximum(ttft_s, self._slot_s[:, None], out=ttft_s)
        idle_s = np.maximum(own_s, listed.spread(lines.own_s))
        idle_s += tail_s
        wait_s = np.broadcast_to(self._wait_s[at], ttft_s.shape)
        flat = (array.reshape(-1) for array in (ttft_s, behind_s, idle_s, wait_s))
        return _Kind(Route.OFFLOAD, there.reshape(-1), *flat)

    def _soonest_of_sources(self, there: Bools, done_s: Floats) -> Floats:
        """For each home and source, when the first of its engines would be done."""
        starts = self._columns.remote.starts
        seconds = np.where(there, done_s, inf)
        each = [seconds[:, a:b].min(axis=1, initial=inf) for a, b in pairwise(starts)]
        return np.array(each).reshape(len(each), len(there)).T

    def _sizes(self, request: RequestView) -> list[float]:
        """For each home the bytes of a hand-off to the engine that is to decode."""
        kv_bytes, total = self._view.costs.kv_bytes, request.total_tokens
        held = [0 if decode < 0 else int(self._held[decode]) for decode in self._decodes]
        of = {tokens: kv_bytes(tokens, total) for tokens in set(held)}
        return [of[tokens] for tokens in held]

    def _some_givers(self) -> Iterator[tuple[int, Bools]]:
        """Homes whose decode engine cannot be handed to by all, with those that can."""
        engines = self._columns.engines
        for home, decode in enumerate(self._decodes):
            givers = None if decode < 0 else self._view.givers(engines[decode].name)
            if givers is not None:
                yield home, givers


_DIRECT, _ALONE, _LOCAL, _REMOTE = range(4)
