"""Which engine serves which models, and which of these are adapters."""

from __future__ import annotations

import msgspec

from prfaas.core.errors import EngineError
from prfaas.gateway.engine_client import EngineAnswer
from prfaas.gateway.served_models import ServedModels


class Engine:
    """Serves a model, and adapters that may be loaded while it runs."""

    def __init__(self, name: str, *adapters: str, fails: bool = False) -> None:
        self.name = name
        self.adapters = list(adapters)
        self.fails = fails
        self.asked = 0

    async def pass_on(self, method: str, path: str) -> EngineAnswer:
        assert (method, path) == ("GET", "/v1/models")
        self.asked += 1
        if self.fails:
            raise EngineError("down")
        cards = [{"id": "model"}, *({"id": a, "parent": "model"} for a in self.adapters)]
        return EngineAnswer(200, "application/json", msgspec.json.encode({"data": cards}))


async def test_names_are_learnt_once_and_again_where_one_is_new() -> None:
    engines = [Engine("one", "tuned"), Engine("two", fails=True)]
    models = ServedModels(lambda: engines)  # type: ignore[arg-type, return-value]
    assert await models.adapter(None) is None
    assert [engine.asked for engine in engines] == [0, 0]
    assert await models.adapter("tuned") == "tuned"
    assert await models.adapter("model") is None
    assert engines[0].asked == 1
    engines[0].adapters.append("newer")
    assert await models.adapter("newer") == "newer"
    assert engines[0].asked == 2


async def test_an_engine_serves_what_it_says_or_maybe_anything() -> None:
    engines = [Engine("one", "tuned"), Engine("two"), Engine("silent", fails=True)]
    models = ServedModels(lambda: engines)  # type: ignore[arg-type, return-value]
    for engine in engines:
        await models.learn(engine)  # type: ignore[arg-type]
    assert models.serving("tuned") == {"one", "silent"}
    assert models.serving("model") == {"one", "two", "silent"}
    assert models.serving("unheard of") is models.serving(None) is None
    models.forget("one")
    assert models.serving("model") == {"one", "two", "silent"}


async def test_where_an_adapter_is_loaded_meanwhile_is_learnt() -> None:
    engines = [Engine("one", "tuned"), Engine("two")]
    models = ServedModels(lambda: engines)  # type: ignore[arg-type, return-value]
    for engine in engines:
        await models.learn(engine)  # type: ignore[arg-type]
    engines[1].adapters.append("tuned")
    await models.adapter("tuned")
    assert models.serving("tuned") == {"one", "two"}
    assert [card["id"] for card in await models.cards()] == ["model", "tuned"]
