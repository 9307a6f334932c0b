"""Which engine serves which models and LoRA adapters.

An adapter is served as a model with a parent, and its KV cache is its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from prfaas.core.errors import UNREADABLE, EngineError
from prfaas.gateway.engine_client import EngineClient
from prfaas.gateway.upstream_errors import LocalFault

_AGAIN_S = 10.0
"""So often at most engines are asked again that are not known to serve what is asked for."""


class ServedModels:
    """Learnt from every engine that comes up, and again from those that are ``up`` and do not serve
    a name that is asked for: engines can load adapters while they run."""

    def __init__(self, up: Callable[[], Iterable[EngineClient]]) -> None:
        self._up = up
        self._by_engine: dict[str, dict[str, Mapping[str, Any]]] = {}
        self._asked_at: dict[str, float] = {}
        self._ever: set[str] = set()
        """All that any engine has ever said that it serves."""

    async def learn(self, engine: EngineClient) -> None:
        """Ask one engine for its models; no answer, nothing learnt."""
        with contextlib.suppress(EngineError, LocalFault, *UNREADABLE):
            answer = await engine.pass_on("GET", "/v1/models")
            cards = msgspec.json.decode(answer.body, type=_Models).data
            self._by_engine[engine.name] = {str(card["id"]): card for card in cards if "id" in card}
            self._ever |= self._by_engine[engine.name].keys()

    def forget(self, engine: str) -> None:
        """The engine is down: whatever comes up in its place may serve others."""
        self._by_engine.pop(engine, None)

    async def adapter(self, model: str | None) -> str | None:
        """``model`` if it is an adapter, else None."""
        if model is None:
            return None
        known = self._card(model)
        if known is None or known.get("parent") is not None:
            await self._look_again(model, at_once=known is None)
        card = self._card(model)
        return model if card is not None and card.get("parent") is not None else None

    def serving(self, model: str | None) -> frozenset[str] | None:
        """The engines that serve it; None where every engine may be asked: no model is named, or
        none is known to serve it, and any engine can say so."""
        if model is None:
            return None
        found = frozenset(name for name, cards in self._by_engine.items() if model in cards)
        if not found:
            return None
        # One that has not said what it serves may serve it.
        silent = {engine.name for engine in self._up() if engine.name not in self._by_engine}
        return found | silent

    async def knows(self, model: str, *, ask: bool) -> bool:
        """Whether an engine serves it, or has when it was up. ``ask``: look where that is news."""
        if ask and model not in self._ever:
            await self._look_again(model, at_once=False)
        return model in self._ever

    def warnings(self) -> list[str]:
        """Of engines that serve nothing in common: requests are given to any."""
        models = {
            name: {model for model, card in cards.items() if card.get("parent") is None}
            for name, cards in sorted(self._by_engine.items())
        }
        for (one, ours), (other, theirs) in itertools.combinations(models.items(), 2):
            if ours and theirs and ours.isdisjoint(theirs):
                return [
                    f"engine {one} serves {', '.join(sorted(ours))} and {other} "
                    f"{', '.join(sorted(theirs))}: any of them may be given any request; give each "
                    "model a deployment file (prfaas gateway FILE --also FILE)"
                ]
        return []

    async def cards(self) -> list[Mapping[str, Any]]:
        """Every model that an engine serves that is up, as the first of them describes it."""
        up = list(self._up())
        await asyncio.gather(*(self.learn(e) for e in up if e.name not in self._by_engine))
        found: dict[str, Mapping[str, Any]] = {}
        for engine in up:
            for name, card in self._by_engine.get(engine.name, {}).items():
                found.setdefault(name, card)
        return list(found.values())

    def _card(self, model: str) -> Mapping[str, Any] | None:
        return next((c[model] for c in self._by_engine.values() if model in c), None)

    async def _look_again(self, model: str, *, at_once: bool) -> None:
        now = asyncio.get_running_loop().time()
        lacking = [e for e in self._up() if model not in self._by_engine.get(e.name, {})]
        if not at_once:
            lacking = [
                e for e in lacking if self._asked_at.get(e.name, -math.inf) + _AGAIN_S <= now
            ]
        self._asked_at |= {engine.name: now for engine in lacking}
        await asyncio.gather(*(self.learn(engine) for engine in lacking))


class _Models(msgspec.Struct, frozen=True):
    data: list[dict[str, Any]]
