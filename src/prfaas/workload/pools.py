"""The caches of a deployment's agents and engines, and what of them is loaded and pulled: the books
of simulator and planner.

Theory of operation. Each machine has one cache (`MachineCache`) that serves its engines, and each
engine whose KV memory is known one of its own, as large as that. A hand-off is cached where it was
sent and where it is read, an answer on its engine's machine where that keeps answers. What an
engine lacks it loads from its machine's memory or disk, and what that lacks is pulled from another
over the cluster's network or a line, at the rate of that and if it takes less than 0.8 of what it
spares; as at a gateway, the price is told to the scheduler with the request, and paid when the
prefill begins. Loads and reads count at the rates that a gateway begins with.

What was missed often where a line leads is copied there, as `gateway.hot_copies` does it; a copy is
there at once.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from math import inf
from typing import NamedTuple, Protocol

from prfaas.core.tiers import load_guess_s
from prfaas.workload.entry_cache import EntryCache
from prfaas.workload.machine_cache import HeldBlocks, MachineCache, MachineModel
from prfaas.workload.prefix_cache import PrefixCache

_WORTH = 0.8
"""As `gateway.pulls` has it."""
_HOT, _SHARE, _WITHIN_S = 3, 0.1, 600.0
"""As `gateway.hot_copies` has them."""


class Costs(Protocol):
    """What computing a prompt takes, and moving it."""

    def prefill_s(self, engine: str, uncached_tokens: int) -> float:
        """Seconds that ``engine`` takes to prefill so many uncached tokens."""

    def kv_bytes(self, from_token: int, to_token: int) -> float:
        """Bytes of a hand-off of tokens [from_token, to_token), states included."""


class Reach(NamedTuple):
    """What an engine can have of a prompt without computing it. Of these blocks it has ``own``
    itself; the last ``pulled`` come from the machine ``source``; ``read`` are read from disk first,
    here or there. All others lie in its machine's memory."""

    blocks: int
    fetch_s: float = 0.0
    own: int = 0
    source: str | None = None
    pulled: int = 0
    read: int = 0


class Pools:
    """The caches of all machines and engines.

    Args:
        rates: (machine that sends, machine that receives) -> bytes a second between them, and the
            round trip in seconds; absent: nothing can be pulled that way.
        kv_tokens: engine -> what its own cache holds; absent: it is not simulated.
    """

    def __init__(
        self,
        machines: Sequence[MachineModel],
        rates: Mapping[tuple[str, str], tuple[float, float]],
        costs: Costs,
        *,
        block_tokens: int,
        state_bytes: float,
        kv_tokens: Mapping[str, float] | None = None,
    ) -> None:
        self._costs, self._block_tokens, self._rates = costs, block_tokens, rates
        self._block_bytes = costs.kv_bytes(0, block_tokens) - costs.kv_bytes(0, 0)
        self._state_bytes = state_bytes
        sizes = {"block_bytes": self._block_bytes, "state_bytes": state_bytes}
        self.caches = {m.name: MachineCache(m, **sizes) for m in machines}
        self._machine_of = {engine: m for m in machines for engine in m.engines}
        bounds = kv_tokens or {}
        self._own_blocks = {
            engine: int(bounds[engine] // block_tokens)
            for engine in self._machine_of
            if bounds.get(engine, inf) < inf
        }
        self._own: dict[str, PrefixCache | EntryCache] = {}
        for engine in self._own_blocks:
            self.restarted(engine)
        self.pulls = self.copies = 0
        """Made so far."""
        self._misses: Counter[tuple[str, int]] = Counter()
        self._brought: dict[str, deque[tuple[float, float]]] = {}

    def restarted(self, engine: str) -> None:
        """Its own cache is empty."""
        blocks = self._own_blocks.get(engine)
        if blocks is None:
            return
        self._own[engine] = PrefixCache(blocks)
        if self._state_bytes:  # It goes on from where there is a state.
            self._own[engine] = EntryCache(
                blocks * self._block_bytes,
                block_bytes=self._block_bytes,
                state_bytes=self._state_bytes,
            )

    def reaches(self, blocks: Sequence[int], prompt: int) -> dict[str, Reach]:
        """Of each engine that can have any."""
        if not blocks or not self.caches:
            return {}
        held = {name: cache.held(blocks) for name, cache in self.caches.items()}
        own = {engine: cache.match(blocks) for engine, cache in self._own.items()}
        if not any(own.values()) and not any(h.blocks for h in held.values()):
            return {}
        found = {e: self._reach(e, held, own.get(e, 0), prompt) for e in self._machine_of}
        return {name: reach for name, reach in found.items() if reach.blocks}

    def count(self, cached: dict[str, int], blocks: Sequence[int], prompt: int) -> dict[str, float]:
        """Say in ``cached`` how many tokens each engine can have; returns what fetching takes."""
        fetch_s: dict[str, float] = {}
        for name, reach in self.reaches(blocks, prompt).items():
            cached[name] = self._tokens(reach.blocks, prompt)
            if reach.fetch_s:
                fetch_s[name] = reach.fetch_s
        return fetch_s

    def fetch(self, engine: str, blocks: Sequence[int], prompt: int, now: float) -> Reach:
        """A prefill begins on ``engine``: what it has, and loads once that was pulled."""
        reach = self.reaches(blocks, prompt).get(engine, Reach(0))
        self.taken(engine, reach, blocks, now)
        return reach

    def taken(self, engine: str, reach: Reach, blocks: Sequence[int], now: float) -> None:
        """A prefill begins on ``engine``, of which `reaches` has just said ``reach``."""
        if engine not in self._machine_of:
            return
        here = self.caches[self._machine_of[engine].name]
        if reach.source is not None:
            self.caches[reach.source].use(blocks[: reach.blocks])
            here.insert(blocks[: reach.blocks])
            self.pulls += 1
        else:
            self._missed(engine, blocks, now)
        if reach.blocks > reach.own:
            here.use(blocks[: reach.blocks])

    def computed(self, engine: str, blocks: Sequence[int]) -> None:
        """The engine has all of it in its own cache."""
        own = self._own.get(engine)
        if own is not None:
            own.insert(blocks)

    def handed_over(
        self, sender: str, reader: str, blocks: Sequence[int], from_token: int, to_token: int
    ) -> None:
        """A hand-off of tokens [from_token, to_token) between two engines is over: it lies with
        both agents, and its reader has loaded what it lacked of the tokens before; what its machine
        lacked of them was pulled first."""
        first, end = from_token // self._block_tokens, to_token // self._block_tokens
        places = [self._machine_of.get(engine) for engine in (sender, reader)]
        own, machine = self._own.get(reader), places[1]
        if machine is not None and (own is None or own.match(blocks[:first]) < first):
            self._bring(machine.name, blocks[:first])
            self.caches[machine.name].use(blocks[:first])
        for name in {place.name: None for place in places if place is not None}:
            self.caches[name].insert(blocks[:end], first)
        self.computed(reader, blocks[:end])

    def _bring(self, machine: str, blocks: Sequence[int]) -> None:
        """Pull ``blocks`` to a machine that lacks some of them, from one that has all."""
        if self.caches[machine].held(blocks).blocks == len(blocks):
            return
        for source, cache in self.caches.items():
            rate = self._rates.get((source, machine), (0.0, 0.0))[0]
            if rate and cache.held(blocks).blocks == len(blocks):
                cache.use(blocks)
                self.caches[machine].insert(blocks)
                self.pulls += 1
                return

    def answered(self, engine: str, blocks: Sequence[int]) -> None:
        """It has answered: ``blocks`` are of prompt and answer."""
        self.computed(engine, blocks)
        machine = self._machine_of.get(engine)
        if machine is not None and machine.answers:
            self.caches[machine.name].insert(blocks)

    def _reach(self, engine: str, held: Mapping[str, HeldBlocks], own: int, prompt: int) -> Reach:
        here = self._machine_of[engine].name
        best = Reach(own, 0.0, own)
        best_s = self._prefill_s(engine, own, prompt)
        mine = held[here]
        lacks_s = best_s
        for blocks in {mine.in_memory, mine.blocks}:
            if blocks <= own:
                continue
            fetch_s = self._load_s(blocks, blocks - mine.in_memory, prompt)
            rest_s = self._prefill_s(engine, blocks, prompt)
            if fetch_s + rest_s < best_s:
                read = blocks - max(own, mine.in_memory)
                best, best_s = Reach(blocks, fetch_s, own, read=max(0, read)), fetch_s + rest_s
                lacks_s = rest_s
        without = best.blocks
        tried: set[tuple[HeldBlocks, float, float]] = set()
        for source, there in held.items():
            if there.blocks <= without or source == here:
                continue
            rate, rtt_s = self._rates.get((source, here), (0.0, 0.0))
            if not rate or (there, rate, rtt_s) in tried:
                continue  # The first of those that have as much, at the same rate.
            tried.add((there, rate, rtt_s))
            fetch_s = self._bytes(without, there.blocks, prompt) / rate + 1.5 * rtt_s
            fetch_s += self._load_s(there.blocks, there.blocks - there.in_memory, prompt)
            rest_s = self._prefill_s(engine, there.blocks, prompt)
            if fetch_s < _WORTH * (lacks_s - rest_s) and fetch_s + rest_s < best_s:
                pulled, read = there.blocks - without, there.blocks - there.in_memory
                best = Reach(there.blocks, fetch_s, own, source, pulled, min(read, pulled))
                best_s = fetch_s + rest_s
        return best

    def _missed(self, engine: str, blocks: Sequence[int], now: float) -> None:
        """Copy what another machine has, and this one lacked often enough."""
        here = self._machine_of[engine].name
        mine = self.caches[here].held(blocks).blocks
        source, most = "", mine
        for name, cache in self.caches.items():
            if self._rates.get((name, here), (0.0,))[0] and cache.held(blocks).blocks > most:
                source, most = name, cache.held(blocks).blocks
        if not source:
            return
        self._misses[here, blocks[most - 1]] += 1
        brought = self._brought.setdefault(here, deque())
        while brought and brought[0][0] < now - _WITHIN_S:
            brought.popleft()
        size = self._costs.kv_bytes(0, most * self._block_tokens)
        room = _SHARE * self._machine_of[engine].cache_bytes
        room -= sum(bytes_ for _, bytes_ in brought)
        if self._misses[here, blocks[most - 1]] % _HOT == 0 and size <= room:
            self.caches[source].use(blocks[:most])
            self.caches[here].insert(blocks[:most])
            brought.append((now, size))
            self.copies += 1

    def _prefill_s(self, engine: str, blocks: int, prompt: int) -> float:
        """Of what is left of it behind so many blocks."""
        return self._costs.prefill_s(engine, prompt - self._tokens(blocks, prompt))

    def _load_s(self, blocks: int, on_disk: int, prompt: int) -> float:
        """Of so many blocks, the last of which are read from disk first."""
        load_s = load_guess_s("memory", self._bytes(0, blocks, prompt))
        if on_disk:
            load_s += load_guess_s("disk", self._bytes(blocks - on_disk, blocks, prompt))
        return load_s

    def _bytes(self, start: int, end: int, prompt: int) -> float:
        """Of blocks [start, end)."""
        return self._costs.kv_bytes(start * self._block_tokens, self._tokens(end, prompt))

    def _tokens(self, blocks: int, prompt: int) -> int:
        """The last of a prompt is always computed."""
        return min(blocks * self._block_tokens, prompt - 1)


def pool_rates(
    machines: Sequence[MachineModel],
    lan_bytes_per_s: Mapping[str, float],
    lines: Mapping[tuple[str, str], tuple[float, float]],
) -> dict[tuple[str, str], tuple[float, float]]:
    """What `Pools` calls rates.

    Args:
        lan_bytes_per_s: cluster -> rate between its machines; absent: they pull nothing there.
        lines: (cluster that sends, cluster that receives) -> bytes a second, round trip.
    """
    rates: dict[tuple[str, str], tuple[float, float]] = {}
    for sender in machines:
        for receiver in machines:
            line = lines.get((sender.cluster, receiver.cluster))
            if sender.cluster == receiver.cluster and sender is not receiver:
                rate = lan_bytes_per_s.get(sender.cluster, 0.0)
                rates[sender.name, receiver.name] = rate, 0.0
            elif line is not None:
                rates[sender.name, receiver.name] = line
    return rates
