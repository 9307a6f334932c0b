"""The agents' caches of a simulated deployment, and what of them engines load and pull.

Theory of operation. Each machine has one cache (`EntryCache`) that serves its engines. A prefill
leaves its prompt on its engine's machine, a hand-off leaves it on the decode engine's, an answer is
kept there where the machine keeps answers. What a machine lacks it can pull from another over the
cluster's network or a line, at the rate of that and if it takes less than 0.8 of what it spares; as
at a gateway, the price is told to the scheduler with the request, and paid when the prefill begins.
Engines' own caches are not simulated: what they have, their machine has too, and a load from memory
is added at the rate that a gateway begins with.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

from prfaas.policies.learned_fetches import load_guess_s
from prfaas.policies.views import Costs
from prfaas.sim.world import MachineModel, World
from prfaas.workload.entry_cache import EntryCache

_WORTH = 0.8
"""As `gateway.pulls` has it."""


class Reach(NamedTuple):
    """What an engine can have of a prompt without computing it; ``source``: the machine it is
    pulled from first."""

    blocks: int
    fetch_s: float
    source: str | None = None


_NOTHING = Reach(0, 0.0)


class Pools:
    """Of all machines.

    Args:
        rates: (machine that sends, machine that receives) -> bytes a second between them, and the
            round trip in seconds; absent: nothing can be pulled that way.
    """

    def __init__(
        self,
        machines: Sequence[MachineModel],
        rates: dict[tuple[str, str], tuple[float, float]],
        costs: Costs,
        *,
        block_tokens: int,
        state_bytes: float,
    ) -> None:
        self._costs, self._block_tokens, self._rates = costs, block_tokens, rates
        block_bytes = costs.kv_bytes(0, block_tokens) - costs.kv_bytes(0, 0)
        self.caches = {
            m.name: EntryCache(m.cache_bytes, block_bytes=block_bytes, state_bytes=state_bytes)
            for m in machines
        }
        self._machine_of = {engine: m for m in machines for engine in m.engines}
        self.pulls = 0
        """Made so far."""

    def reaches(self, blocks: Sequence[int], prompt: int) -> dict[str, Reach]:
        """Of each engine that can have any."""
        if not blocks or not self.caches:
            return {}
        held = {name: cache.match(blocks) for name, cache in self.caches.items()}
        if not any(held.values()):
            return {}
        found = {name: self._reach(name, held, prompt) for name in self._machine_of}
        return {name: reach for name, reach in found.items() if reach.blocks}

    def fetch(self, engine: str, blocks: Sequence[int], prompt: int) -> Reach:
        """A prefill begins on ``engine``: what it loads now, once that was pulled."""
        if not self.caches:
            return _NOTHING
        reach = self.reaches(blocks, prompt).get(engine, _NOTHING)
        if reach.blocks:
            own = self._machine_of[engine].name
            if reach.source is not None:
                self.caches[reach.source].use(blocks[: reach.blocks])
                self.caches[own].insert(blocks[: reach.blocks])
                self.pulls += 1
            self.caches[own].use(blocks)
        return reach

    def computed(self, engine: str, blocks: Sequence[int]) -> None:
        """The engine has handed all of it to its agent, or has received it."""
        machine = self._machine_of.get(engine)
        if machine is not None:
            self.caches[machine.name].insert(blocks)

    def answered(self, engine: str, blocks: Sequence[int]) -> None:
        """It has answered: ``blocks`` are of prompt and answer."""
        machine = self._machine_of.get(engine)
        if machine is not None and machine.answers:
            self.caches[machine.name].insert(blocks)

    def _reach(self, engine: str, held: dict[str, int], prompt: int) -> Reach:
        own = self._machine_of[engine].name
        best, best_s = _NOTHING, self._costs.prefill_s(engine, prompt)
        for source, blocks in held.items():
            if blocks <= (0 if source == own else held[own]):
                continue
            tokens = min(blocks * self._block_tokens, prompt - 1)
            size = self._costs.kv_bytes(0, tokens)
            fetch_s = load_guess_s("memory", size)
            spared_s = self._costs.prefill_s(engine, prompt)
            if source != own:
                rate, rtt_s = self._rates.get((source, own), (0.0, 0.0))
                fetch_s += size / rate + 1.5 * rtt_s if rate else inf
                lacks = max(1, prompt - held[own] * self._block_tokens)
                spared_s = self._costs.prefill_s(engine, lacks)
            rest_s = self._costs.prefill_s(engine, prompt - tokens)
            worth = 1.0 if source == own else _WORTH
            if fetch_s < worth * (spared_s - rest_s) and fetch_s + rest_s < best_s:
                best_s = fetch_s + rest_s
                best = Reach(blocks, fetch_s, None if source == own else source)
        return best


def pools_of(world: World, block_tokens: int) -> Pools:
    """Of a world; without machines they have nothing."""
    lines = {(line.source, line.target): line for line in world.lines}
    rates: dict[tuple[str, str], tuple[float, float]] = {}
    for sender in world.machines:
        for receiver in world.machines:
            line = lines.get((sender.cluster, receiver.cluster))
            if sender.cluster == receiver.cluster and sender is not receiver:
                rate = world.lan_bytes_per_s.get(sender.cluster, 0.0)
                rates[sender.name, receiver.name] = rate, 0.0
            elif line is not None:
                rates[sender.name, receiver.name] = line.rate_bytes_per_s, line.rtt_s
    return Pools(
        world.machines,
        rates,
        world.costs,
        block_tokens=block_tokens,
        state_bytes=world.state_bytes,
    )
