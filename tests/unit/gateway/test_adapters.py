"""LoRA adapters that some engines of a deployment have loaded and others have not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import pytest

from prfaas.gateway import served_models
from prfaas.policies.registry import POLICIES
from prfaas.scheduler.events import RequestArrived
from prfaas.scheduler.replay import read_journal, replay
from prfaas.testing.asking import answer_to
from prfaas.testing.mock_deployment import MockDeployment, until

LONG = "a long prompt that is certainly longer than the threshold of forty tokens"
MIDDLE = "longer than one block"
SHORT = "abc"
COMPLETIONS = "/v1/completions"


async def ask(
    client: aiohttp.ClientSession, prompt: str, model: str = "tuned", **more: Any
) -> aiohttp.ClientResponse:
    async with client.post(COMPLETIONS, json={"model": model, "prompt": prompt, **more}) as answer:
        said = await answer.json()
        if answer.ok:
            assert said["choices"][0]["text"] == answer_to(prompt)
        else:
            assert said["error"]["message"]
        return answer


def some(*engines: str, **settings: Any) -> MockDeployment:
    """A deployment where ``engines`` have the adapter."""
    mock = MockDeployment(second_prefill=True, **settings)
    for name in engines:
        mock.engines[name].adapters = ["tuned"]
    return mock


def asked(mock: MockDeployment, model: str = "tuned") -> set[str]:
    """Engines that were asked to compute something for it."""
    return {
        name
        for name, engine in mock.engines.items()
        if any(body.get("model") == model for body in engine.bodies(COMPLETIONS))
    }


async def learnt(mock: MockDeployment) -> None:
    for engine in mock.gateway.engines.values():
        await mock.gateway.models.learn(engine)


@pytest.mark.parametrize("policy", sorted(POLICIES))
async def test_each_policy_gives_it_to_engines_that_have_it(policy: str) -> None:
    mock = some("e2", "p1", "d2", policy=policy)
    async with mock.running() as client:
        await mock.ready()
        await learnt(mock)
        for number in range(6):
            for prompt in (LONG, MIDDLE, SHORT):
                answer = await ask(client, f"{number}{prompt}")
                assert answer.status == 200
                assert answer.headers["x-prfaas-attempts"] == "1"
        assert asked(mock) <= {"e2", "p1", "d2"}


@pytest.mark.parametrize(
    ("prompt", "engines", "route", "taken"),
    [
        (LONG, ("e2", "p1", "d2"), "offload", {"e2", "d2"}),
        (LONG, ("p1", "d2"), "pd-p", {"p1", "d2"}),
        (MIDDLE, ("e2", "p1", "d2"), "pd-p", {"p1", "d2"}),
        (MIDDLE, ("e2", "d1"), "direct", {"d1"}),
        (LONG, ("d1",), "direct", {"d1"}),
        (SHORT, ("e2", "p1", "d2"), "direct", {"d2"}),
        (LONG, ("e2", "p1"), "direct", {"p1"}),
    ],
)
async def test_each_route_is_over_engines_that_have_it(
    prompt: str, engines: tuple[str, ...], route: str, taken: set[str]
) -> None:
    mock = some(*engines)
    async with mock.running() as client:
        await mock.ready()
        await learnt(mock)
        answer = await ask(client, prompt)
        assert answer.status == 200
        assert answer.headers["x-prfaas-route"].startswith(f"{route}; ")
        assert answer.headers["x-prfaas-attempts"] == "1"
        assert asked(mock) == taken


async def test_only_what_some_do_not_serve_is_restricted(tmp_path: Path) -> None:
    journal = tmp_path / "events.jsonl"
    mock = some("e2", "p1", "d2", journal_file=journal)
    async with mock.running() as client:
        await mock.ready()
        await learnt(mock)
        for model in ("mock-model", "tuned"):
            for prompt in (LONG, SHORT):
                assert (await ask(client, prompt, model)).status == 200
    with journal.open("rb") as lines:
        entries = list(read_journal(lines))
    arrived = [item for _, item in entries if isinstance(item, RequestArrived)]
    assert [event.serves for event in arrived] == [None, None, *2 * [("d2", "e2", "p1")]]
    assert list(replay(entries)) == []


async def test_an_adapter_that_is_loaded_while_it_runs_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(served_models, "_AGAIN_S", 0.0)
    mock = some()
    async with mock.running() as client:
        await mock.ready()
        await learnt(mock)
        for prompt in (LONG, SHORT):
            assert (await ask(client, prompt)).status == 404
        for name in ("p1", "d2"):
            mock.engines[name].adapters.append("tuned")
        for prompt in (LONG, SHORT):
            answer = await ask(client, prompt)
            assert (answer.status, answer.headers["x-prfaas-decode-engine"]) == (200, "d2")
        mock.engines["d1"].adapters.append("tuned")
        mock.engines["d2"].adapters.clear()
        await until(lambda: mock.gateway.models.serving("tuned") is not None)
        await ask(client, SHORT)  # Somebody serves it: it is found beside who else does.
        await until(lambda: mock.gateway.models.serving("tuned") == {"p1", "d1"})
        answer = await ask(client, SHORT)
        assert (answer.status, answer.headers["x-prfaas-decode-engine"]) == (200, "d1")


async def test_while_the_engines_that_have_it_are_down_it_is_unavailable_and_not_unknown() -> None:
    mock = some("e2", "d2")
    async with mock.running() as client:
        await mock.ready()
        await learnt(mock)
        assert (await ask(client, LONG)).status == 200
        await mock.engines["d2"].stop()
        await until(lambda: "d2" not in mock.gateway.fleet.up)
        for prompt in (SHORT, MIDDLE, LONG):
            assert (await ask(client, prompt)).status == 503
            assert (await ask(client, prompt, "mock-model")).status == 200
        async with client.post("/tokenize", json={"model": "tuned", "prompt": "x"}) as answer:
            assert answer.status == 200  # Of an engine that only prefills.
        await mock.engines["d2"].start()
        await until(lambda: "d2" in mock.gateway.fleet.up)
        answer = await ask(client, LONG)
        assert (answer.status, answer.headers["x-prfaas-decode-engine"]) == (200, "d2")
        assert asked(mock) == {"e2", "d2"}


async def test_an_engine_that_has_it_dies_and_another_goes_on() -> None:
    mock = some("e2", "d1", "d2")
    async with mock.running() as client:
        await mock.ready()
        await learnt(mock)
        mock.engines["e2"].dies_of = "certainly"
        answer = await ask(client, LONG)
        assert answer.status == 200
        assert answer.headers["x-prfaas-route"].startswith("direct; ")
        assert int(answer.headers["x-prfaas-attempts"]) > 1
        assert asked(mock) <= {"e2", "d1", "d2"}
