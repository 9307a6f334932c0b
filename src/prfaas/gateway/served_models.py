"""Which engine serves which models and LoRA adapters.

An adapter is served as a model with a parent, and its KV cache is its own: a request for it is
prefilled and decoded by engines that serve it, and by no others.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from functools import partial
from typing import Annotated, Any, Protocol

import msgspec

from prfaas.core.errors import UNREADABLE, EngineError
from prfaas.gateway.engine_client import EngineClient
from prfaas.gateway.upstream_errors import LocalFault

_AGAIN_S = 10.0
"""So often at most engines are asked again what they serve."""
_MOST_MODELS, _MOST_EVER = 4096, 65_536
"""Of one engine; and names of all, of which those that nobody serves any more are forgotten."""
_PATIENCE_S = 2.0
"""Within which they must answer then: a request may wait for it."""


class Named(Protocol):
    """What `Endpoints` says of a deployment's engines."""

    @property
    def engines(self) -> Collection[str]:
        """The names of all; another object after they have changed."""

    @property
    def answering(self) -> Collection[str]:
        """Of them, those that can answer a request alone."""


class ServedModels:
    """Learnt from every engine that comes up, and again from all that are up while adapters, or
    names that nobody serves, are asked for: engines load and unload adapters while they run. Of one
    that is down, or has not answered since, its last word counts.

    Args:
        up: the engines that are up.
        all_of_them: of the deployment as it is now.
        later: does something beside what is under way.
    """

    def __init__(
        self,
        up: Callable[[], Iterable[EngineClient]],
        all_of_them: Callable[[], Named],
        later: Callable[[Callable[[], Coroutine[Any, Any, None]]], asyncio.Future[None]],
    ) -> None:
        self._up, self._all, self._later = up, all_of_them, later
        self._by_engine: dict[str, dict[str, Mapping[str, Any]]] = {}
        self._was_down: set[str] = set()
        """Engines that have not said what they serve since they were down."""
        self._asked_at = -math.inf
        self._asking: asyncio.Future[None] | None = None
        """All that are up, for whoever needs to know: who asked first may leave meanwhile."""
        self._ever: dict[str, float] = {}
        """All that any engine has ever said that it serves, and when one did first, by the event
        loop's clock."""
        self._claims: dict[str, float] = {}
        """Name -> which share of the engines that have said what they serve has said so."""
        self._adapters: dict[str, bool] = {}
        """Whether names are adapters', as far as that was asked for."""
        self._serving: dict[str, frozenset[str] | None] = {}
        """What `serving` has found, for ``_of_all``, as `claim`."""
        self._of_all: Collection[str] = ()
        """Others than the engines that there are, once something has been learnt."""

    async def learn(self, engine: EngineClient, *, within_s: float | None = None) -> None:
        """Ask one engine for its models; without an answer, or a model in it, nothing is learnt."""
        with contextlib.suppress(EngineError, LocalFault, *UNREADABLE):
            answer = await engine.models(within_s=within_s)
            data = msgspec.json.decode(answer.body, type=_Models).data
            cards: dict[str, Mapping[str, Any]] = {
                str(card["id"]): card for card in data if "id" in card
            }
            if not cards:
                return
            self._by_engine[engine.name] = cards
            self._was_down.discard(engine.name)
            now = asyncio.get_running_loop().time()
            for name in cards:
                self._ever.setdefault(name, now)
            if len(self._ever) > _MOST_EVER:
                served = set(itertools.chain.from_iterable(self._by_engine.values()))
                self._ever = {name: at for name, at in self._ever.items() if name in served}
            self._of_all = ()

    def forget(self, engine: str) -> None:
        """The engine is down: whatever comes up in its place is asked anew."""
        self._was_down.add(engine)

    async def look(self, model: str | None) -> None:
        """Before engines are asked for ``model``: where it is an adapter, or nobody serves it, find
        out who does by now. Waits for that only where no engine that is up and could answer is
        known to."""
        if model is None or self._is_adapter(model) is False:
            return
        now = asyncio.get_running_loop().time()
        if now >= self._asked_at + _AGAIN_S:
            self._asked_at = now
            self._asking = self._later(partial(self._ask, list(self._up())))
        asking = self._asking
        if asking is not None and not asking.done() and not self._may_be_answered(model):
            await asyncio.wait([asking], timeout=_PATIENCE_S)

    def _may_be_answered(self, model: str) -> bool:
        """Whether an engine that is up and could answer is known to serve it."""
        could = self._all().answering
        return any(model in self._by_engine.get(e.name, {}) for e in self._up() if e.name in could)

    async def adapter(self, model: str | None) -> str | None:
        """``model`` if it is an adapter, else None."""
        if model is None:
            return None
        if self._is_adapter(model) is None:  # An engine that was asked may have loaded it just now.
            await self._ask(self._lacking(model))
        return model if self._is_adapter(model) else None

    def serving(self, model: str | None) -> frozenset[str] | None:
        """The engines that may be asked for it, up or not: those that serve it, and those that have
        never said what they serve. None where every engine may be asked: all serve it, no model is
        named, or none is known to serve it, and any engine can say so."""
        if model is None or model not in self._ever:
            return None
        every = self._every_now()
        if model not in self._serving:
            told = self._by_engine.keys() & set(every)
            lack = {name for name in told if model not in self._by_engine[name]}
            found = frozenset(every) - lack if told - lack and lack else None
            self._serving[model] = found
        return self._serving[model]

    async def knows(self, model: str, *, ask: bool) -> bool:
        """Whether an engine serves it, or has when it was up. ``ask``: look where that is news."""
        if ask and model not in self._ever:
            await self.look(model)
        return model in self._ever

    def claim(self, model: str) -> tuple[float, float]:
        """How well founded it is that its engines serve a model, to be compared with what others'
        do: by which share of them, then by who said so first."""
        every = self._every_now()
        if model not in self._claims:
            cards = [self._by_engine[name] for name in self._by_engine.keys() & set(every)]
            serve = sum(model in each for each in cards)
            self._claims[model] = serve / len(cards) if serve else 0.0
        return self._claims[model], -self._ever.get(model, math.inf)

    def context_tokens(self, model: str | None) -> int | None:
        """The longest context in which any engine computes it; of no model, any of them. None where
        none says so."""
        every = self._every_now()
        told = (self._by_engine[name] for name in self._by_engine if name in every)
        found = (card for cards in told for card in _cards_of(cards, model))
        return max((length for card in found if (length := _context_of(card))), default=None)

    def warnings(self) -> list[str]:
        """Of engines that serve nothing in common: what names no model is given to any."""
        alike: dict[frozenset[str], str] = {}
        for name, cards in sorted(self._by_engine.items()):
            if name not in self._was_down:
                models = (model for model, card in cards.items() if card.get("parent") is None)
                alike.setdefault(frozenset(models), name)
        for (ours, one), (theirs, other) in itertools.combinations(alike.items(), 2):
            if ours and theirs and ours.isdisjoint(theirs):
                return [
                    f"engine {one} serves {', '.join(sorted(ours))} and {other} "
                    f"{', '.join(sorted(theirs))}: either may be given a request that names no "
                    "model; give each model a deployment file (prfaas gateway FILE --also FILE)"
                ]
        return []

    async def cards(self) -> list[Mapping[str, Any]]:
        """Every model that an engine serves that is up, as the first of them describes it."""
        up = list(self._up())
        await self._ask(engine for engine in up if not self._has_told(engine))
        found: dict[str, Mapping[str, Any]] = {}
        for engine in up:
            for name, card in self._by_engine.get(engine.name, {}).items():
                found.setdefault(name, card)
        return list(found.values())

    def _every_now(self) -> Collection[str]:
        every = self._all().engines
        if every is not self._of_all:
            self._serving.clear()
            self._claims.clear()
            self._adapters.clear()
            self._of_all = every
        return every

    def _is_adapter(self, model: str) -> bool | None:
        """As most of the engines say that serve it; None where none does."""
        every = self._every_now()
        if model not in self._adapters:
            told = (self._by_engine[name] for name in self._by_engine if name in every)
            cards = [each[model] for each in told if model in each]
            if not cards:
                return None
            adapters = sum(card.get("parent") is not None for card in cards)
            self._adapters[model] = 2 * adapters > len(cards)
        return self._adapters[model]

    def _has_told(self, engine: EngineClient) -> bool:
        return engine.name in self._by_engine and engine.name not in self._was_down

    def _lacking(self, model: str) -> list[EngineClient]:
        return [e for e in self._up() if model not in self._by_engine.get(e.name, {})]

    async def _ask(self, engines: Iterable[EngineClient]) -> None:
        await asyncio.gather(*(self.learn(e, within_s=_PATIENCE_S) for e in engines))


def _cards_of(
    cards: Mapping[str, Mapping[str, Any]], model: str | None
) -> Iterable[Mapping[str, Any]]:
    """Of a model; of an adapter also its parent's, which says what the adapter's does not."""
    if model is None:
        return cards.values()
    card = cards.get(model, {})
    return card, cards.get(str(card.get("parent")), {})


def _context_of(card: Mapping[str, Any]) -> int:
    length = card.get("max_model_len")
    return length if isinstance(length, int) else 0


class _Models(msgspec.Struct, frozen=True):
    data: Annotated[list[dict[str, Any]], msgspec.Meta(max_length=_MOST_MODELS)]
