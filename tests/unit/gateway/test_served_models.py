"""Which engine serves which models, and which of these are adapters."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from prfaas.core.errors import EngineError
from prfaas.gateway import served_models
from prfaas.gateway.engine_client import EngineAnswer
from prfaas.gateway.served_models import ServedModels


class Engine:
    """Serves a model, and adapters that may be loaded while it runs."""

    def __init__(
        self, name: str, *adapters: str, fails: bool = False, context: object = None
    ) -> None:
        self.name = name
        self.context = context
        self.adapters = list(adapters)
        self.fails = fails
        self.asked = 0
        self.waits: asyncio.Event | None = None

    async def models(self, *, within_s: float | None = None) -> EngineAnswer:
        self.within_s = within_s
        self.asked += 1
        if self.waits is not None:
            await self.waits.wait()
        if self.fails:
            raise EngineError("down")
        cards: list[dict[str, object]] = [{"id": "model", "max_model_len": self.context}]
        cards += [{"id": a, "parent": "model"} for a in self.adapters]
        return EngineAnswer(200, "application/json", msgspec.json.encode({"data": cards}))


class Fleet:
    """Engines, of which those are up that are not in ``down``; and what is done beside."""

    def __init__(self, *engines: Engine) -> None:
        self.engines = {engine.name: engine for engine in engines}
        self.down: set[str] = set()
        self.prefill_alone: set[str] = set()
        self.later: list[asyncio.Future[None]] = []
        self.models = ServedModels(
            lambda: [e for e in self.engines.values() if e.name not in self.down],  # type: ignore[misc]
            lambda: self,
            self._later,
        )

    def _later(self, work: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Future[None]:
        self.later.append(asyncio.ensure_future(work()))
        return self.later[-1]

    @property
    def answering(self) -> set[str]:
        return self.engines.keys() - self.prefill_alone

    async def learn(self) -> None:
        for engine in self.engines.values():
            await self.models.learn(engine)  # type: ignore[arg-type]

    async def do_later(self) -> None:
        while self.later:
            await self.later.pop()

    def asked(self) -> list[int]:
        return [engine.asked for engine in self.engines.values()]


async def test_names_are_learnt_once_and_again_where_one_is_new() -> None:
    fleet = Fleet(Engine("one", "tuned"), Engine("two", fails=True))
    models = fleet.models
    assert await models.adapter(None) is None
    assert fleet.asked() == [0, 0]
    assert await models.adapter("tuned") == "tuned"
    assert await models.adapter("model") is None
    assert fleet.engines["one"].asked == 1
    fleet.engines["one"].adapters.append("newer")
    assert await models.adapter("newer") == "newer"
    assert fleet.engines["one"].asked == 2


async def test_a_request_may_be_given_to_engines_that_serve_it_or_have_never_said() -> None:
    fleet = Fleet(Engine("one", "tuned"), Engine("two"), Engine("silent", fails=True))
    models = fleet.models
    assert models.serving("tuned") is None
    await fleet.learn()
    assert models.serving("tuned") == {"one", "silent"}
    assert models.serving("unheard of") is models.serving(None) is None


async def test_what_every_engine_serves_is_not_restricted_whoever_is_down() -> None:
    fleet = Fleet(Engine("one"), Engine("two"), Engine("silent", fails=True))
    await fleet.learn()
    assert fleet.models.serving("model") is None
    fleet.models.forget("one")
    assert fleet.models.serving("model") is None


async def test_the_last_word_of_an_engine_that_is_down_counts_until_the_next() -> None:
    fleet = Fleet(Engine("one", "tuned"), Engine("two"))
    await fleet.learn()
    fleet.down.add("one")
    fleet.models.forget("one")
    assert fleet.models.serving("tuned") == {"one"}
    assert await fleet.models.adapter("tuned") == "tuned"
    assert [card["id"] for card in await fleet.models.cards()] == ["model"]
    fleet.down.clear()
    fleet.engines["one"].adapters.clear()  # Its adapter was loaded at runtime.
    assert [card["id"] for card in await fleet.models.cards()] == ["model"]
    assert fleet.models.serving("tuned") is None
    assert await fleet.models.knows("tuned", ask=False)


async def test_engines_that_have_left_serve_nothing() -> None:
    fleet = Fleet(Engine("one", "tuned"), Engine("two"), Engine("three", "tuned"))
    await fleet.learn()
    assert fleet.models.serving("tuned") == {"one", "three"}
    fleet.engines = {name: engine for name, engine in fleet.engines.items() if name != "one"}
    assert fleet.models.serving("tuned") == {"three"}
    fleet.engines = {"two": fleet.engines["two"]}
    assert fleet.models.serving("tuned") is None


async def test_a_list_of_models_waits_for_no_engine_that_does_not_answer() -> None:
    fleet = Fleet(Engine("one"), Engine("silent", fails=True))
    await fleet.models.learn(fleet.engines["one"])  # type: ignore[arg-type]
    assert [card["id"] for card in await fleet.models.cards()] == ["model"]
    assert fleet.engines["silent"].within_s == served_models._PATIENCE_S


async def test_what_the_larger_part_of_the_engines_serves_is_claimed_with_more_right() -> None:
    few, many = Fleet(Engine("one", "tuned"), Engine("two")), Fleet(Engine("three", "tuned"))
    assert few.models.claim("tuned") == many.models.claim("tuned"), "nobody has said anything"
    await few.learn()
    assert few.models.claim("tuned") > many.models.claim("tuned")
    await many.learn()
    assert few.models.claim("tuned") < many.models.claim("tuned")
    assert few.models.claim("model") > many.models.claim("model"), "it was there first"
    many.engines = {}
    assert few.models.claim("tuned") > many.models.claim("tuned")


async def test_no_engine_by_itself_says_what_is_an_adapter() -> None:
    """A prompt is looked for in caches under its adapter's name."""
    odd = Engine("odd")
    fleet = Fleet(odd, Engine("one", "tuned"), Engine("two", "tuned"))

    async def say(*, within_s: float | None = None) -> EngineAnswer:
        cards = [{"id": "model", "parent": "another"}, {"id": "tuned"}]
        return EngineAnswer(200, "application/json", msgspec.json.encode({"data": cards}))

    odd.models = say  # type: ignore[method-assign]
    await fleet.learn()
    assert await fleet.models.adapter("model") is None
    assert await fleet.models.adapter("tuned") == "tuned"


async def test_an_answer_that_lists_no_model_says_nothing() -> None:
    fleet = Fleet(Engine("one", "tuned"), Engine("odd"))
    fleet.engines["odd"].models = _none  # type: ignore[method-assign]
    await fleet.learn()
    assert fleet.models.serving("tuned") is None


async def _none(*, within_s: float | None = None) -> EngineAnswer:
    del within_s
    return EngineAnswer(200, "application/json", b'{"data": []}')


async def test_where_an_adapter_is_loaded_and_unloaded_meanwhile_is_learnt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fleet = Fleet(Engine("one"), Engine("two"))
    models = fleet.models
    await fleet.learn()
    await models.look("tuned")  # Nobody is known to serve it: that is waited for.
    assert fleet.asked() == [2, 2]
    fleet.engines["one"].adapters.append("tuned")
    await models.look("tuned")
    assert fleet.asked() == [2, 2]
    monkeypatch.setattr(served_models, "_AGAIN_S", 0.0)
    await models.look("tuned")
    assert models.serving("tuned") == {"one"}
    fleet.engines["two"].adapters.append("tuned")
    await models.look("tuned")  # Somebody serves it: who else does is asked beside.
    assert models.serving("tuned") == {"one"}
    await fleet.do_later()
    assert models.serving("tuned") is None
    assert [card["id"] for card in await models.cards()] == ["model", "tuned"]
    fleet.engines["one"].adapters.clear()
    await models.look("tuned")
    await fleet.do_later()
    assert models.serving("tuned") == {"two"}


async def test_who_could_answer_is_waited_for_where_only_others_are_known_to_serve_it() -> None:
    """A prefill engine elsewhere has said so when it came up; the request would be parked."""
    fleet = Fleet(Engine("prefill", "tuned"), Engine("decode"))
    fleet.prefill_alone.add("prefill")
    await fleet.learn()
    fleet.engines["decode"].adapters.append("tuned")
    assert fleet.models.serving("tuned") == {"prefill"}
    await fleet.models.look("tuned")
    assert fleet.models.serving("tuned") is None


async def test_what_is_asked_for_all_is_not_lost_with_who_has_asked_first() -> None:
    """A client that left at once, every ten seconds, kept others' adapters from being heard of; and
    who came while engines were asked did not wait for them."""
    fleet = Fleet(Engine("prefill", "tuned"), decode := Engine("decode"))
    fleet.prefill_alone.add("prefill")
    await fleet.learn()
    decode.adapters.append("tuned")
    decode.waits = asyncio.Event()
    first = asyncio.ensure_future(fleet.models.look("unheard of"))
    while decode.asked < 2:  # noqa: ASYNC110
        await asyncio.sleep(0)
    second = asyncio.ensure_future(fleet.models.look("tuned"))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    assert not second.done()
    decode.waits.set()
    await second
    assert fleet.models.serving("tuned") is None
    assert first.cancelled()
    assert fleet.asked() == [2, 2]


async def test_for_models_that_are_no_adapters_nobody_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(served_models, "_AGAIN_S", 0.0)
    fleet = Fleet(Engine("one"), Engine("two"))
    await fleet.learn()
    for _ in range(3):
        await fleet.models.look("model")
        await fleet.models.look(None)
    assert fleet.asked() == [1, 1]
    assert not fleet.later


async def test_engines_that_serve_the_same_are_not_compared_with_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fleet = Fleet(*(Engine(f"e{n}") for n in range(100)))
    await fleet.learn()
    pairs: list[object] = []

    def combinations(of: Iterable[Any], size: int) -> list[Any]:
        found = list(itertools.combinations(of, size))
        pairs.extend(found)
        return found

    monkeypatch.setattr(served_models, "itertools", SimpleNamespace(combinations=combinations))
    assert fleet.models.warnings() == []
    assert not pairs


async def test_names_that_nobody_serves_any_more_do_not_add_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(served_models, "_MOST_EVER", 20)
    fleet = Fleet(engine := Engine("e"))
    for number in range(100):
        engine.adapters = [f"adapter-{number}"]
        await fleet.learn()
        assert len(fleet.models._ever) <= 20
    engine.adapters = [f"adapter-{number}" for number in range(5000)]
    await fleet.learn()
    assert len(fleet.models._ever) <= 20, "it is not believed to serve so many"


async def test_a_context_is_the_longest_that_any_engine_says() -> None:
    fleet = Fleet(
        Engine("a", "poems", context=4096),
        Engine("b", context=8192),
        Engine("c", context="long"),
        Engine("d", "essays"),
    )
    assert fleet.models.context_tokens("model") is None
    await fleet.learn()
    assert fleet.models.context_tokens("model") == 8192
    assert fleet.models.context_tokens(None) == 8192
    assert fleet.models.context_tokens("poems") == 4096
    assert fleet.models.context_tokens("essays") is None
    assert fleet.models.context_tokens("nobody's") is None
