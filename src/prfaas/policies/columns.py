"""All engines and lines side by side in arrays, for what is asked of each of them at each arrival.

A thousand engines are a few array operations, where a look at one after the other would take
longer than everything else that an arrival costs. Engines are numbered in the order of the view;
those with a part to play are listed once more in the order in which ways are compared: by PD
cluster, and by PrfaaS cluster. The lists are made anew where a role, an engine or a line changes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import copy
from itertools import repeat
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prfaas.policies.views import ClusterView, Costs, EngineView, LinkView

MANY = 50
"""From so many engines on a look at all at once takes less time than one after the other."""
Floats = NDArray[np.float64]
Numbers = NDArray[np.intp]
Bools = NDArray[np.bool_]


class Listed:
    """Engines of some clusters: ``numbers`` of engines, and beside it ``owner``: the cluster's
    place in the list of clusters. ``starts[i]``: where those of the i-th begin."""

    def __init__(self, engines: Sequence[Sequence[EngineView]], number: Mapping[str, int]) -> None:
        every = [number[engine.name] for some in engines for engine in some]
        self.numbers: Numbers = np.array(every, np.intp)
        sizes = [len(some) for some in engines]
        self.owner: Numbers = np.repeat(np.arange(len(sizes)), sizes)
        self.starts: list[int] = np.cumsum([0, *sizes]).tolist()
        self._sizes = sizes[0] if len(set(sizes)) == 1 else np.array(sizes, np.intp)

    def spread(self, table: NDArray[Any]) -> NDArray[Any]:
        """What is given for each cluster (the last axis), for each engine."""
        return np.repeat(table, self._sizes, axis=-1)


class Columns:
    """Facts by engine number: ``up`` and so on are those of `EngineView`.

    Args:
        engines: all, by name.
        homes, sources: the PD clusters and the PrfaaS clusters.
        lines: (source, target) -> the line.
        costs: what prefill times come from.
    """

    def __init__(
        self,
        engines: Mapping[str, EngineView],
        homes: Sequence[ClusterView],
        sources: Sequence[ClusterView],
        lines: Mapping[tuple[str, str], LinkView],
        costs: Costs,
    ) -> None:
        self.engines = list(engines.values())
        self.number = {name: number for number, name in enumerate(engines)}
        self._show(np.zeros((11, len(self.engines))))
        self.take(self.engines)
        self.prefill_times = costs.prefill_times(list(engines))
        self.homes, self.sources = list(homes), list(sources)
        self.far: Floats = np.array([float(home.far) for home in homes])
        self._made_of = self._parts()
        self.decode = Listed([home.decode_engines for home in homes], self.number)
        self.local = Listed([home.prefill_engines for home in homes], self.number)
        self.remote = Listed([source.prefill_engines for source in sources], self.number)
        places = [
            (place, line)
            for place, (home, source) in enumerate((h, s) for h in homes for s in sources)
            if (line := lines.get((source.name, home.name))) is not None
        ]
        self.lines = [line for _, line in places]
        self.line_places: Numbers = np.array([place for place, _ in places], np.intp)
        """Where they stand in a table of a row for each home, a column for each source."""

    def _show(self, facts: Floats) -> None:
        self._facts = facts
        (self.up, self.prefills, self.booked_until, self.queued_s, self.running, self.decoding,
         self.max_requests, self.assigned, self.kv_used, self.kv_tokens,
         self.unpaired) = facts  # fmt: skip

    def only(self, engines: Collection[str]) -> Columns:
        """The same of now, where all but these are down and have nothing to do."""
        others = [number for name, number in self.number.items() if name not in engines]
        facts = self._facts.copy()
        facts[:, others] = 0.0
        found = copy(self)
        found._show(facts)
        found.max_requests[others] = 1.0  # Divisors.
        return found

    def fits(self) -> bool:
        """Whether every engine still has the part that it had."""
        now, before = self._parts(), self._made_of
        return len(now) == len(before) and all(map(_is, now, before))

    def take(self, engines: Iterable[EngineView]) -> None:
        """These have changed."""
        facts, number = self._facts, self.number
        for engine in engines:
            facts[:, number[engine.name]] = (
                engine.up,
                engine.prefills,
                engine.booked_until,
                engine.queued_s,
                engine.running,
                engine.decoding,
                engine.max_requests,
                engine.assigned,
                engine.kv_used,
                engine.kv_tokens,
                engine.unpaired,
            )

    def of(self, tokens: Mapping[str, float], *, otherwise: float = 0.0) -> Floats:
        """What is given by engine name as an array."""
        count, most = len(tokens), len(self.engines)
        if 2 * count > most:
            return np.fromiter(map(tokens.get, self.number, repeat(otherwise)), np.float64, most)
        found = np.full(most + 1, otherwise)  # The last is of engines that left.
        if tokens:
            places = np.fromiter(map(self.number.get, tokens, repeat(-1)), np.intp, count)
            found[places] = np.fromiter(tokens.values(), np.float64, count)
        return found[:-1]

    def waits_s(self, now: float) -> Floats:
        """Until each engine is free (`EngineView.free_at`)."""
        late_s = now - self.booked_until
        late = (late_s > 0) & (self.prefills > 0)
        free_at = np.where(late, now + late_s, self.booked_until)
        return np.maximum(free_at - now, 0.0)

    def _parts(self) -> list[object]:
        homes = [
            part for home in self.homes for part in (home.decode_engines, home.prefill_engines)
        ]
        return [*homes, *(source.prefill_engines for source in self.sources)]


class Lines:
    """What a hand-off takes of each line, of one size for each home: a row for each home, a column
    for each source. Where no line is up, ``own_s`` is infinite."""

    def __init__(self, columns: Columns, sizes: Sequence[float], last_bytes: float) -> None:
        shape = len(columns.homes), len(columns.sources)
        lines, places = columns.lines, columns.line_places
        rate = np.array([line.rate_bytes_per_s for line in lines])
        size = np.array(sizes)[places // shape[1]] if lines else np.zeros(0)
        up = np.array([line.up for line in lines], np.bool_)
        if_up_s = size / rate
        own_s = np.where(up, if_up_s, inf)
        self.own_s = _table(shape, places, own_s, inf)
        wait_s = np.array([line.outstanding_bytes for line in lines]) / rate
        self.carried_s = _table(shape, places, wait_s + own_s, inf)
        tail_s = last_bytes / rate + np.array([line.rtt_s for line in lines]) / 2
        self.tail_s = _table(shape, places, tail_s, 0.0)
        transfers = np.array([line.transfers for line in lines])
        self.behind_s = _table(shape, places, if_up_s * transfers, 0.0)
        self.up: Bools = self.own_s < inf


def _table(shape: tuple[int, int], places: Numbers, values: Floats, otherwise: float) -> Floats:
    table = np.full(shape[0] * shape[1], otherwise)
    table[places] = values
    return table.reshape(shape)


def _is(one: object, other: object) -> bool:
    return one is other
