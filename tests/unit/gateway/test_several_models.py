"""Two deployments, of one model each and of different layouts, at the door of the first."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from prfaas.core.deployment import parse_deployment
from prfaas.core.errors import ConfigError
from prfaas.gateway.endpoints import Endpoints, check_apart, resolve
from prfaas.gateway.http import make_app
from prfaas.process.front_door import serving_strangers
from prfaas.testing.mock_deployment import MockDeployment, until

LONG = "x" * 400
KEY = {"Authorization": "Bearer key"}


class Two:
    """``small`` has blocks of 16 tokens and hands over from 100 on, ``large`` of 64 from 300 on."""

    def __init__(self) -> None:
        self.small = MockDeployment(block_tokens=16, threshold_tokens=100, keys="[key]")
        self.large = MockDeployment(block_tokens=64, threshold_tokens=300)
        for mock, model in ((self.small, "small"), (self.large, "large")):
            for engine in mock.engines.values():
                engine.model = model
                engine.embeds = model == "large"

    async def ask(self, model: str | None, prompt: str, **more: Any) -> aiohttp.ClientResponse:
        body = {"prompt": prompt, **({} if model is None else {"model": model}), **more}
        answer = await self.client.post("/v1/completions", json=body, headers=KEY)
        await answer.read()
        return answer


@asynccontextmanager
async def two() -> AsyncIterator[Two]:
    both = Two()
    async with both.small.running(), both.large.running():
        await both.small.ready()
        await both.large.ready()
        app = make_app(both.small.gateway, [both.large.gateway])
        served = serving_strangers(app, "127.0.0.1:0", what="test", shutdown_timeout_s=0.1)
        async with served as url, aiohttp.ClientSession(url) as both.client:
            yield both


def ended(mock: MockDeployment) -> list[str]:
    return [facts.request_id for facts in mock.gateway.requests.recent]


async def test_each_model_is_answered_by_its_own_engines_under_its_own_threshold() -> None:
    async with two() as both:
        for model, tokens, route in (
            ("small", 200, "offload"),
            ("large", 200, "pd-p"),
            ("large", 400, "offload"),
        ):
            answer = await both.ask(model, "x" * tokens)
            assert answer.status == 200
            assert (await answer.json())["model"] == model
            assert answer.headers["x-prfaas-route"].startswith(route), answer.headers
        unnamed = await both.ask(None, "hello")
        assert unnamed.status == 200
        assert len(ended(both.small)) == len(ended(both.large)) == 2
        for mock, count in ((both.small, 1), (both.large, 1)):
            told = mock.gateway.metrics.registry
            routes = [
                sample.value
                for family in told.collect()
                for sample in family.samples
                if sample.name == "prfaas_gateway_requests_total"
                and sample.labels["route"] == "offload"
            ]
            assert sum(routes) == count


async def test_the_models_of_all_are_listed_and_others_do_not_exist() -> None:
    async with two() as both:
        async with both.client.get("/v1/models", headers=KEY) as answer:
            assert [card["id"] for card in (await answer.json())["data"]] == ["large", "small"]
        async with both.client.get("/v1/models/large", headers=KEY) as answer:
            assert answer.status == 200
        assert (await both.ask("other", "hello")).status == 404
        body = {"model": "large", "prompt": "hello"}
        async with both.client.post("/tokenize", json=body, headers=KEY) as answer:
            assert answer.status == 200
        async with both.client.post("/tokenize", json=body) as answer:
            assert answer.status == 401


async def test_what_one_has_cached_says_nothing_of_the_other() -> None:
    async with two() as both:
        for model in ("small", "large"):
            first = await both.ask(model, LONG)
            assert first.headers["x-prfaas-cached-tokens"] == "0"


async def test_a_model_whose_engines_are_down_is_unavailable_and_not_unknown() -> None:
    async with two() as both:
        for engine in both.large.engines.values():
            await engine.stop()
        await until(lambda: not both.large.gateway.fleet.up)
        assert (await both.ask("large", "hello")).status == 503
        assert (await both.ask("small", "hello")).status == 200
        async with both.client.get("/v1/models", headers=KEY) as answer:
            assert [card["id"] for card in (await answer.json())["data"]] == ["small"]


async def test_an_adapter_that_is_loaded_meanwhile_is_found() -> None:
    async with two() as both:
        for engine in both.large.engines.values():
            engine.adapters = ["tuned"]
        assert (await both.ask("tuned", "hello")).status == 200
        assert len(ended(both.large)) == 1


async def test_engines_that_serve_different_models_are_warned_of() -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        assert mock.gateway.models.warnings() == []
        mock.engines["d2"].model = "another"
        await mock.gateway.models.learn(mock.gateway.engines["d2"])
        async with client.get("/ready") as answer:
            [warning] = (await answer.json())["warnings"]
        assert "d1 serves mock-model and d2 another" in warning
        assert "--also" in warning


async def test_an_engine_is_of_one_deployment() -> None:
    mock = MockDeployment()
    async with mock.running():
        endpoints = resolve(mock.deployment(), source="mock")
        check_apart({"a.yaml": endpoints})
        with pytest.raises(ConfigError, match=r"b.yaml: agent .* is in a.yaml too"):
            check_apart({"a.yaml": endpoints, "b.yaml": endpoints})


def test_machines_may_have_engines_at_one_address_of_their_own() -> None:
    """Agents carry what gateways say to engines on the loopback."""

    def machine(name: str, host: int) -> dict[str, object]:
        return {
            "name": name,
            "agent": {
                "name": f"a-{name}",
                "admin": f"10.0.0.{host}:7401",
                "tls": {"ca": "ca.pem", "cert": "cert.pem", "key": "key.pem"},
            },
            "engines": [{"name": f"d-{name}", "role": "decode", "url": "http://127.0.0.1:8001"}],
        }

    def deployment(*hosts: int) -> Endpoints:
        machines = [machine(f"m{host}", host) for host in hosts]
        text = json.dumps({"clusters": [{"name": "w", "kind": "pd", "machines": machines}]})
        return resolve(parse_deployment(text, source="test"), source="test")

    here = deployment(1, 2)
    check_apart({"a.yaml": here, "b.yaml": deployment(3, 4)})
    with pytest.raises(ConfigError, match=r"b.yaml: agent 'a-m2' .* is in a.yaml too"):
        check_apart({"a.yaml": here, "b.yaml": deployment(2, 3)})


async def learnt(mock: MockDeployment, engine: str) -> None:
    await mock.gateway.models.learn(mock.gateway.engines[engine])


async def test_no_machine_has_prompts_sent_to_it_that_are_for_another_deployments() -> None:
    async with two() as both:
        taken_over = both.small.engines["d2"]
        taken_over.adapters = ["large"]
        await learnt(both.small, "d2")
        asked = len(taken_over.requests)
        assert (await both.ask("large", "a secret")).status == 200
        body = {"model": "large", "prompt": "a secret"}
        async with both.client.post("/tokenize", json=body, headers=KEY) as answer:
            assert answer.status == 200
        assert len(taken_over.requests) == asked
        assert len(ended(both.large)) == 1
        taken_over.adapters.clear()
        await learnt(both.small, "d2")
        assert (await both.ask("large", "hello")).status == 200


async def test_what_an_engine_lacks_its_namesake_in_another_deployment_may_have() -> None:
    async with two() as both:
        found = []
        for model in ("small", "large"):
            body = {"model": model, "input": "x"}
            async with both.client.post("/v1/embeddings", json=body, headers=KEY) as answer:
                found.append(answer.status)
        assert found == [404, 200]


async def test_one_tenant_takes_no_places_of_others_in_any_deployment() -> None:
    tenants = "[{name: alice, api_keys: [alice-key]}, {name: mallory, api_keys: [key]}]"
    door, other = MockDeployment(gateway=f"  tenants: {tenants}"), MockDeployment(inflight=16)
    for engine in other.engines.values():
        engine.model = "large"
        engine.first_token_gate.clear()
    async with door.running(), other.running():
        await door.ready()
        await other.ready()
        app = make_app(door.gateway, [other.gateway])
        served = serving_strangers(app, "127.0.0.1:0", what="test", shutdown_timeout_s=0.1)
        async with served as url, aiohttp.ClientSession(url) as client:

            async def ask(key: str = "key") -> int:
                body, who = {"model": "large", "prompt": "x"}, {"Authorization": f"Bearer {key}"}
                async with client.post("/v1/completions", json=body, headers=who) as answer:
                    return answer.status

            asked = [asyncio.create_task(ask()) for _ in range(20)]
            await until(lambda: sum(task.done() for task in asked) == 6)
            asked += [asyncio.create_task(ask("alice-key")) for _ in range(2)]
            await until(lambda: other.gateway.requests.inflight == 16)
            assert await ask("alice-key") == 429, "all places are taken"
            for engine in other.engines.values():
                engine.first_token_gate.set()
            assert sorted(await asyncio.gather(*asked)) == [200] * 16 + [429] * 6
            assert await ask() == 200


async def test_one_tenant_at_each_door_is_two_at_engines_that_both_ask() -> None:
    door = MockDeployment(gateway="  tenants: [{name: mallory, api_keys: [key]}]")
    other = MockDeployment(inflight=16, gateway="  tenants: [{name: alice, api_keys: [alice-key]}]")
    for engine in other.engines.values():
        engine.model = "large"
        engine.first_token_gate.clear()
    async with door.running(), other.running() as theirs:
        await door.ready()
        await other.ready()
        app = make_app(door.gateway, [other.gateway])
        served = serving_strangers(app, "127.0.0.1:0", what="test", shutdown_timeout_s=0.1)
        async with served as url, aiohttp.ClientSession(url) as client:

            async def ask(session: aiohttp.ClientSession, key: str) -> int:
                body = {"model": "large", "prompt": "x", "priority": -9}
                who = {"Authorization": f"Bearer {key}"}
                async with session.post("/v1/completions", json=body, headers=who) as answer:
                    return answer.status

            asked = [asyncio.create_task(ask(client, "key")) for _ in range(20)]
            await until(lambda: other.gateway.requests.inflight == 14)
            asked.append(asyncio.create_task(ask(theirs, "alice-key")))
            await until(lambda: other.gateway.requests.inflight == 15)
            for engine in other.engines.values():
                engine.first_token_gate.set()
            assert sorted(await asyncio.gather(*asked)) == [200] * 15 + [429] * 6
    bodies = [b for engine in other.engines.values() for b in engine.bodies("/v1/completions")]
    assert bodies
    assert not any("priority" in body for body in bodies)
