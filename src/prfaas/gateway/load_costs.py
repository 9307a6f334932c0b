"""What it takes an engine to load a cached prefix from its own agent, beside computing it."""

from __future__ import annotations

from prfaas.gateway.facts import RequestFacts
from prfaas.models.interpolation import Table
from prfaas.policies.api import View
from prfaas.policies.learned_fetches import (
    LearnedFetches,
    any_load_way,
    load_guess_s,
    load_way,
)
from prfaas.scheduler.journal import CostInputs

_TIER = "memory"


class LoadCosts:
    """Theory of operation. What a prefill took that loaded a prefix, beyond what the rest of the
    prompt takes to compute, was the load: it is learned from prefills that the engine was alone
    with. Until some were seen, a profile's load times count, or the usual rate of host memory.

    Args:
        begun: where ``fetches`` start, and what profiles say.
    """

    def __init__(self, view: View, begun: CostInputs) -> None:
        self._view = view
        self.fetches = LearnedFetches(begun.fetches)
        """Of loads and pulls."""
        self._profiles = {
            engine: Table(curve.x, curve.y, interpolation=curve.interpolation, what="load")
            for engine, curve in begun.load_seeds.items()
        }

    def load_s(self, engine: str, tokens: int) -> float:
        """Seconds that ``engine`` takes to load the first ``tokens`` of a prompt."""
        ways = load_way(engine, _TIER), any_load_way(_TIER)
        return self.fetches.fetch_s(self._guess_s(engine, tokens), *ways)

    def spared_s(self, engine: str, total: int, own: int, tokens: int) -> float:
        """Seconds of prefill that it spares an engine to have ``tokens`` rather than ``own``."""
        costs = self._view.costs
        rest_s = costs.prefill_s(engine, max(1, total - tokens))
        return costs.prefill_s(engine, max(1, total - own)) - rest_s

    def worth_s(self, total: int, engine: str, own: int, tokens: int) -> float | None:
        """`load_s`, where that is less than it spares of a prompt of ``total`` tokens; else None.
        Where nothing is known of the engine's prefills, it is loaded."""
        seconds = self.load_s(engine, tokens)
        if not self._view.costs.knows(engine):
            return seconds
        spared_s = self.spared_s(engine, total, own, tokens)
        if seconds < spared_s:
            return seconds
        if self._guess_s(engine, tokens) < spared_s:
            self.fetches.passed_over(load_way(engine, _TIER), any_load_way(_TIER))
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
        guess_s = self._guess_s(engine, tokens)
        for way in (load_way(engine, _TIER), any_load_way(_TIER)):
            self.fetches.seen(way, guess_s, seconds)

    def _guess_s(self, engine: str, tokens: int) -> float:
        profile = self._profiles.get(engine)
        if profile is not None:
            return profile.at(tokens)
        return load_guess_s(_TIER, self._view.costs.kv_bytes(0, tokens))
