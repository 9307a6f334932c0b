"""LoRA adapters: served as models with a parent, their KV cache is their own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable

import msgspec

from prfaas.core.errors import EngineError
from prfaas.gateway.engine_client import EngineClient
from prfaas.gateway.upstream_errors import LocalFault


class Adapters:
    """Learnt from every engine that comes up, and again from all that are ``up`` when a name is
    asked for that is not known: engines can load adapters while they run."""

    def __init__(self, up: Callable[[], Iterable[EngineClient]]) -> None:
        self._up = up
        self._parents: dict[str, str | None] = {}

    async def learn(self, engine: EngineClient) -> None:
        """Ask one engine for its models; no answer, nothing learnt."""
        with contextlib.suppress(EngineError, LocalFault, msgspec.DecodeError):
            answer = await engine.pass_on("GET", "/v1/models")
            models = msgspec.json.decode(answer.body, type=_Models).data
            self._parents |= {model.id: model.parent for model in models}

    async def find(self, model: str | None) -> str | None:
        """``model`` if it is an adapter, else None."""
        if model is None:
            return None
        if model not in self._parents:
            await asyncio.gather(*(self.learn(engine) for engine in self._up()))
        return model if self._parents.get(model) is not None else None


class _Model(msgspec.Struct, frozen=True):
    id: str
    parent: str | None = None


class _Models(msgspec.Struct, frozen=True):
    data: list[_Model]
