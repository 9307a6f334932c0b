"""Which names are adapters."""

from __future__ import annotations

import msgspec

from prfaas.core.errors import EngineError
from prfaas.gateway.adapters import Adapters
from prfaas.gateway.engine_client import EngineAnswer


class Engine:
    """Serves a model, and adapters that may be loaded while it runs."""

    def __init__(self, *adapters: str, fails: bool = False) -> None:
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
    engines = [Engine("tuned"), Engine(fails=True)]
    adapters = Adapters(lambda: engines)  # type: ignore[arg-type, return-value]
    assert await adapters.find(None) is None
    assert [engine.asked for engine in engines] == [0, 0]
    assert await adapters.find("tuned") == "tuned"
    assert await adapters.find("model") is None
    assert engines[0].asked == 1
    engines[0].adapters.append("newer")
    assert await adapters.find("newer") == "newer"
    assert engines[0].asked == 2
