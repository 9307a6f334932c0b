"""What it takes an engine to load a cached prefix from its own agent, beside computing it.

Theory of operation. What a prefill took that loaded a prefix, beyond what the rest of the prompt
takes to compute, was the load: it is learned from prefills that the engine was alone with. Until
some were seen, a profile's load times count, or the usual rate of host memory. What lies on disk
its agent reads to memory first. That is learned by agent, as what such a load took beyond one from
memory; until then the rate counts that the agent has measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from prfaas.core.tiers import Tier, load_guess_s
from prfaas.gateway.endpoints import Endpoints
from prfaas.gateway.facts import RequestFacts
from prfaas.models.interpolation import Table
from prfaas.policies.api import View
from prfaas.policies.learned_fetches import (
    LearnedFetches,
    any_load_way,
    load_way,
)
from prfaas.scheduler.journal import CostInputs


class Load(NamedTuple):
    """A load of the first ``tokens`` of a prompt, the last ``on_disk`` of which lie on disk
    alone."""

    tokens: int
    on_disk: int = 0
    seconds: float = 0.0


class LoadCosts:
    """What loads are expected to take, from those that were seen.

    Args:
        begun: where ``fetches`` start, and what profiles say.
        disk_rates: agent -> bytes a second that it reads from its disk, as far as it has said.
    """

    def __init__(
        self, endpoints: Endpoints, view: View, begun: CostInputs, disk_rates: Mapping[str, float]
    ) -> None:
        self._endpoints, self._view, self._disk_rates = endpoints, view, disk_rates
        self.fetches = LearnedFetches(begun.fetches)
        """Of loads and pulls."""
        self._profiles = {
            engine: Table(curve.x, curve.y, interpolation=curve.interpolation, what="load")
            for engine, curve in begun.load_seeds.items()
        }

    def load_s(self, engine: str, tokens: int) -> float:
        """Seconds that ``engine`` takes to load the first ``tokens`` of a prompt from memory."""
        return self.fetches.fetch_s(self._guess_s(engine, tokens), *_ways("memory", engine))

    def disk_s(self, agent: str, tokens: int, on_disk: int) -> float:
        """Seconds that ``agent`` takes to read the last ``on_disk`` of ``tokens`` from disk."""
        if not on_disk:
            return 0.0
        guess_s = self._disk_guess_s(agent, tokens, on_disk)
        return self.fetches.fetch_s(guess_s, *_ways("disk", agent))

    def spared_s(self, engine: str, total: int, own: int, tokens: int) -> float:
        """Seconds of prefill that it spares an engine to have ``tokens`` rather than ``own``."""
        costs = self._view.costs
        rest_s = costs.prefill_s(engine, max(1, total - tokens))
        return costs.prefill_s(engine, max(1, total - own)) - rest_s

    def best(self, total: int, engine: str, own: int, whole: Load) -> Load | None:
        """All of ``whole``, or what of it lies in memory, whichever spares most of a prompt of
        ``total`` tokens; None where neither spares anything. Where nothing is known of the engine's
        prefills, all of it is loaded."""
        agent, (tokens, on_disk, _) = self._endpoints.engines[engine].agent, whole
        load_s, disk_s = self.load_s(engine, tokens), self.disk_s(agent, tokens, on_disk)
        whole = whole._replace(seconds=load_s + disk_s)
        if not self._view.costs.knows(engine):
            return whole
        in_memory = Load(tokens - on_disk)
        in_memory = in_memory._replace(seconds=self.load_s(engine, in_memory.tokens))
        memory_spares_s = 0.0
        if in_memory.tokens > own:
            memory_spares_s = self.spared_s(engine, total, own, in_memory.tokens)
        saved_s = max(0.0, memory_spares_s - in_memory.seconds)
        whole_spares_s = self.spared_s(engine, total, own, tokens)
        if whole_spares_s - whole.seconds > saved_s:
            return whole
        guess_s = load_s + self._disk_guess_s(agent, tokens, on_disk)
        if on_disk and whole_spares_s - guess_s > saved_s:
            self.fetches.passed_over(*_ways("disk", agent))
        if saved_s:
            return in_memory
        if self._guess_s(engine, in_memory.tokens) < memory_spares_s:
            self.fetches.passed_over(*_ways("memory", engine))
        return None

    def begins(self, facts: RequestFacts, engine: str, elapsed_s: float) -> None:
        """``engine`` is asked now, and loads what its agent has."""
        state = self._view.engines.get(engine)
        if state is not None and state.prefills <= 1:
            facts.loads_since[engine] = elapsed_s
        else:
            facts.loads_since.pop(engine, None)

    def ended(self, facts: RequestFacts) -> None:
        """A request is over: learn from its prefill."""
        engine = facts.prefill_engine
        total, ended_s = facts.total_tokens, facts.prefilled_s
        if engine is None or engine not in facts.loads_since or total is None or ended_s is None:
            return
        tokens = facts.at_agent.get(engine, 0)
        loaded = tokens and engine in facts.pool and (facts.prefill_cached_tokens or 0) >= tokens
        if not loaded or engine not in self._view.engines or not self._view.costs.knows(engine):
            return
        computed_s = self._view.costs.prefill_s(engine, max(1, total - tokens))
        seconds = ended_s - facts.loads_since[engine] - computed_s
        on_disk = facts.from_disk.get(engine, 0)
        if on_disk:
            agent = self._endpoints.engines[engine].agent
            guess_s, ways = self._disk_guess_s(agent, tokens, on_disk), _ways("disk", agent)
            seconds -= self.load_s(engine, tokens)
        else:
            guess_s, ways = self._guess_s(engine, tokens), _ways("memory", engine)
        for way in ways:
            self.fetches.seen(way, guess_s, seconds)

    def _guess_s(self, engine: str, tokens: int) -> float:
        profile = self._profiles.get(engine)
        if profile is not None:
            return profile.at(tokens)
        return load_guess_s("memory", self._view.costs.kv_bytes(0, tokens))

    def _disk_guess_s(self, agent: str, tokens: int, on_disk: int) -> float:
        size = self._view.costs.kv_bytes(tokens - on_disk, tokens)
        return load_guess_s("disk", size, self._disk_rates.get(agent))


def _ways(tier: Tier, where: str) -> tuple[str, str]:
    """Of an engine's loads, or an agent's reads, and of all of that tier."""
    return load_way(where, tier), any_load_way(tier)
