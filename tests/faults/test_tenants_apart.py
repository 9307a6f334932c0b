"""One tenant attacks another through the gateway's own socket."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

from prfaas.core.addresses import parse_url
from prfaas.core.deployment import parse_deployment
from prfaas.core.errors import ConfigError
from prfaas.core.gateway_sessions import Renewal
from prfaas.gateway import bodies, client_api, facts
from prfaas.gateway.body import tenant_salt
from prfaas.gateway.engine_client import EngineClient
from prfaas.gateway.usage import Counts, counts_in
from prfaas.scheduler.fleet import FleetState
from prfaas.testing import mock_engine
from prfaas.testing.mock_deployment import MockDeployment, until

COMPLETIONS = "/v1/completions"
SECRET = "the merger will be announced on Friday at nine, keep it to yourself"
ALICE, MALLORY, OPERATOR = ({"Authorization": f"Bearer {k}-key"} for k in ("alice", "mal", "op"))

TWO = """
  operator_keys: [op-key]
  tenants:
    - {name: alice, api_keys: [alice-key]}
    - {name: mallory, api_keys: [mal-key]}
"""
SHARED = TWO + "  isolate_caches: false\n"


class Answer:
    def __init__(self, response: aiohttp.ClientResponse, content: str) -> None:
        self.status, self.content = response.status, content
        self.headers = {k.lower(): v for k, v in response.headers.items()}

    @property
    def said_of_caches(self) -> list[Any]:
        """Every ``prompt_tokens_details`` in it."""
        parts = [line.removeprefix("data: ") for line in self.content.splitlines()]
        found = [json.loads(part) for part in parts if part.startswith("{")]
        return [p["usage"]["prompt_tokens_details"] for p in found if p.get("usage")]


async def ask(
    client: aiohttp.ClientSession, who: dict[str, str], prompt: str = SECRET, **more: Any
) -> Answer:
    body = {"prompt": prompt, **more}
    async with client.post(COMPLETIONS, json=body, headers=who) as response:
        return Answer(response, await response.text())


def told_by(mock: MockDeployment) -> MockDeployment:
    for engine in mock.engines.values():
        engine.tells_cached = True
    return mock


def salts(mock: MockDeployment) -> set[str | None]:
    """What engines were given."""
    every = [body for engine in mock.engines.values() for _, body, _ in engine.requests]
    return {body.get("cache_salt") for body in every}


@pytest.mark.parametrize("prompt", ["a", "a" * 30_000], ids=["small", "large"])
async def test_one_tenants_idle_connections_close_none_of_anothers(prompt: str) -> None:
    """Whose they are is known also where the last answer was a large one."""
    mock = MockDeployment(gateway=TWO)
    body = json.dumps({"prompt": prompt}).encode()
    async with mock.running() as client:
        await mock.ready()
        address = parse_url(str((await client.get("/health")).url.origin()))
        mock.gateway.access.connections.most = 16

        async def idle(key: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_connection(*address)
            head = b"POST /tokenize HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer %b\r\n"
            writer.write(head % key + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            assert b" 200 " in await reader.readline()
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            return reader, writer

        opened = [await idle(b"alice-key")]
        opened += [await idle(b"mal-key") for _ in range(40)]
        reader, _ = opened[0]
        with pytest.raises(TimeoutError):  # It is open still.
            await asyncio.wait_for(reader.read(1), 0.2)
        assert mock.gateway.access.connections.dropped["room"] >= 20
        for _, writer in opened:
            writer.transport.abort()


@pytest.mark.parametrize("stream", [False, True])
async def test_an_isolated_tenant_hits_nothing_of_another_whatever_it_sends(stream: bool) -> None:
    mock = told_by(MockDeployment(gateway=TWO))
    async with mock.running() as client:
        await mock.ready()
        for _ in range(5):  # Every engine has had it by then.
            alice = await ask(client, ALICE, stream=stream, cache_salt="alices own")
        assert alice.said_of_caches == [{"cached_tokens": len(SECRET)}]
        assert alice.headers["x-prfaas-total-tokens"] == str(len(SECRET))
        (stolen,) = salts(mock)
        for salt in ({}, {"cache_salt": "alices own"}, {"cache_salt": stolen}):
            mallory = await ask(client, MALLORY, stream=stream, **salt)
            assert mallory.said_of_caches == [{"cached_tokens": 0}]
            assert mallory.headers["x-prfaas-cached-tokens"] == "0"


async def test_a_tenant_finds_nothing_of_one_in_whose_place_it_has_come() -> None:
    """The file has one tenant at a time, or each of its gateways has one: those have one cache."""
    mock = told_by(MockDeployment(gateway="  tenants: [{name: alice, api_keys: [alice-key]}]\n"))
    async with mock.running() as client:
        await mock.ready()
        for _ in range(5):  # Every engine has had it by then.
            alice = await ask(client, ALICE)
        assert alice.said_of_caches == [{"cached_tokens": len(SECRET)}]
        text = mock.deployment_text().replace("alice", "mallory").replace("mallory-key", "mal-key")
        mock.gateway.become(parse_deployment(text, source="f"), source="f")
        assert (await ask(client, ALICE)).status == 401
        mallory = await ask(client, MALLORY)
        assert mallory.said_of_caches == [{"cached_tokens": 0}]
        assert mallory.headers["x-prfaas-cached-tokens"] == "0"
        assert len(salts(mock)) == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_where_caches_are_shared_nothing_says_what_was_in_them(stream: bool) -> None:
    mock = told_by(MockDeployment(gateway=SHARED))
    async with mock.running() as client:
        await mock.ready()
        for _ in range(5):
            await ask(client, ALICE, stream=stream)
        warm = await ask(client, MALLORY, stream=stream)
        cold = await ask(client, MALLORY, SECRET[::-1], stream=stream)
        for answer in (warm, cold):
            assert answer.status == 200
            assert answer.said_of_caches == [None]
            assert not [name for name in answer.headers if name.startswith("x-prfaas")]
        assert salts(mock) == {None}
        for path in ("/requests", "/metrics"):
            async with client.get(path, headers=MALLORY) as response:
                assert response.status == 401, path
            async with client.get(path, headers=OPERATOR) as response:
                assert response.status == 200, path


async def test_a_tenant_sees_its_own_requests_alone() -> None:
    mock = MockDeployment(gateway=TWO)
    async with mock.running() as client:
        await mock.ready()
        await ask(client, ALICE)
        await ask(client, MALLORY)
        for who, seen in (
            (ALICE, {"alice"}),
            (MALLORY, {"mallory"}),
            (OPERATOR, {"alice", "mallory"}),
        ):
            async with client.get("/requests", headers=who) as response:
                assert {r["tenant"] for r in (await response.json())["requests"]} == seen


async def test_who_leaves_keeps_no_adapter_of_anothers_from_being_heard_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Engines are asked for all what they serve, every ten seconds at most: a tenant that left at
    once was the one who had asked, and nobody heard the answer."""
    may_say, answer = asyncio.Event(), mock_engine.MockEngine._models
    may_say.set()

    async def slowly(engine: mock_engine.MockEngine, request: web.Request) -> web.StreamResponse:
        await may_say.wait()
        return await answer(engine, request)

    monkeypatch.setattr(mock_engine.MockEngine, "_models", slowly)
    mock = MockDeployment(gateway=TWO)
    mock.engines["e1"].adapters = ["tuned"]
    async with mock.running() as client:
        await mock.ready()
        await until(lambda: mock.gateway.models.serving("tuned") == {"e1"})
        mock.engines["d1"].adapters = mock.engines["d2"].adapters = ["tuned"]
        may_say.clear()
        leaves = asyncio.ensure_future(ask(client, MALLORY, model="nobodys"))
        await until(lambda: mock.gateway.models._asked_at > -math.inf)
        stays = asyncio.ensure_future(ask(client, ALICE, model="tuned"))
        await until(lambda: mock.gateway.requests.inflight == 2)
        leaves.cancel()
        await until(lambda: mock.gateway.requests.inflight == 1)
        may_say.set()
        assert (await stays).status == 200


async def test_models_and_adapters_of_others_do_not_exist() -> None:
    mock = MockDeployment(
        gateway="""
  tenants:
    - {name: alice, api_keys: [alice-key], models: [mock-model, alices-adapter]}
    - {name: mallory, api_keys: [mal-key], models: [mock-model]}
"""
    )
    for engine in mock.engines.values():
        engine.adapters = ["alices-adapter"]
    async with mock.running() as client:
        await mock.ready()
        assert (await ask(client, ALICE, model="alices-adapter")).status == 200
        asked = sum(len(engine.requests) for engine in mock.engines.values())
        said = set()
        for model in ("alices-adapter", "nobodys-adapter"):
            refused = await ask(client, MALLORY, model=model)
            said.add(refused.content.replace(model, "X"))
            assert refused.status == 404
            assert "does not exist" in refused.content
        assert len(said) == 1, "what is another's and what is nobody's look alike"
        twice = b'{"prompt": "a", "model": "alices-adapter", "model": "mock-model"}'
        async with client.post(COMPLETIONS, data=twice, headers=MALLORY) as response:
            assert response.status == 200
        async with client.post("/tokenize", json={"prompt": "a", "model": "alices-adapter"},
                               headers=MALLORY) as response:  # fmt: skip
            assert response.status == 404
        async with client.get("/v1/models", headers=MALLORY) as response:
            assert [m["id"] for m in (await response.json())["data"]] == ["mock-model"]
        sent = [b for engine in mock.engines.values() for _, b, _ in engine.requests][asked:]
        assert all(body["model"] == "mock-model" for body in sent)


async def test_a_greedy_tenant_is_told_when_to_come_back_and_others_are_served(
    caplog: pytest.LogCaptureFixture,
) -> None:
    mock = MockDeployment(
        gateway="""
  operator_keys: [op-key]
  tenants:
    - {name: alice, api_keys: [alice-key]}
    - {name: mallory, api_keys: [mal-key], requests_per_s: 0.01, max_requests: 5}
"""
    )
    async with mock.running() as client:
        await mock.ready()
        assert (await ask(client, MALLORY)).status == 200
        with caplog.at_level(logging.WARNING, "prfaas.audit"):
            refused = [await ask(client, MALLORY) for _ in range(20)]
            assert {answer.status for answer in refused} == {429}
            assert all(90 <= int(answer.headers["retry-after"]) <= 100 for answer in refused)
            wrong = {"Authorization": "Bearer a-stolen-key-that-is-wrong"}
            assert (await ask(client, wrong)).status == 401
        assert (await ask(client, ALICE)).status == 200
        audit = [r.getMessage() for r in caplog.records if r.name == "prfaas.audit"]
        assert any("cause=requests_per_s tenant=mallory status=429" in line for line in audit)
        assert any("cause=key tenant=unknown status=401" in line for line in audit)
        assert len(audit) < 10, "one line a second for each cause"
        async with client.get("/metrics", headers=OPERATOR) as response:
            page = await response.text()
        assert 'refusals_total{cause="requests_per_s",tenant="mallory"} 20.0' in page
        for secret in ("mal-key", "alice-key", "op-key", "a-stolen-key"):
            assert secret not in page
            assert not any(secret in line for line in audit)


async def test_a_stream_that_is_refused_after_its_comments_is_on_record(
    caplog: pytest.LogCaptureFixture,
) -> None:
    mock = MockDeployment(
        gateway="""
  keepalive: "10 ms"
  operator_keys: [op-key]
  tenants:
    - {name: alice, api_keys: [alice-key]}
    - {name: mallory, api_keys: [mal-key], max_tokens: 50}
"""
    )
    async with mock.running() as client:
        await mock.ready()
        for engine in mock.engines.values():
            engine.render_gate.clear()
        with caplog.at_level(logging.WARNING, "prfaas.audit"):
            asking = asyncio.ensure_future(ask(client, MALLORY, stream=True, max_tokens=51))
            await until(lambda: any(x.response.opened for x in mock.gateway.requests._live))
            for engine in mock.engines.values():
                engine.render_gate.set()
            answer = await asking
        assert answer.status == 200
        assert "more than the 50 that this key may have" in answer.content
        audit = [r.getMessage() for r in caplog.records if r.name == "prfaas.audit"]
        assert ["cause=max_tokens tenant=mallory status=400" in line for line in audit] == [True]
        async with client.get("/metrics", headers=OPERATOR) as response:
            page = await response.text()
        assert 'refusals_total{cause="max_tokens",tenant="mallory"} 1.0' in page


@pytest.mark.parametrize("path", ["/tokenize", "/v1/embeddings"])
async def test_whatever_an_engine_is_asked_counts_among_its_tenants_requests(path: str) -> None:
    mock = MockDeployment(
        gateway="""
  tenants:
    - {name: alice, api_keys: [alice-key]}
    - {name: mallory, api_keys: [mal-key], requests_per_s: 0.01}
"""
    )
    async with mock.running() as client:
        await mock.ready()

        async def status(who: dict[str, str]) -> int:
            body = {"prompt": "x", "input": "x"}
            async with client.post(path, json=body, headers=who) as response:
                return response.status

        assert (await status(MALLORY), await status(MALLORY)) != (429, 429)
        assert await status(MALLORY) == 429
        assert await status(ALICE) != 429
        async with client.get("/v1/models", headers=MALLORY) as response:
            assert response.status == 429


async def test_one_request_does_not_end_engine_after_engine() -> None:
    mock, asked = MockDeployment(), list[str]()
    for engine in mock.engines.values():

        async def die(request: web.Request, name: str = engine.name) -> web.Response:
            asked.append(name)
            assert request.transport is not None
            request.transport.close()
            return await asyncio.Event().wait()  # type: ignore[return-value]

        engine._tokenize = die  # type: ignore[method-assign]
    async with mock.running() as client:
        await mock.ready()
        async with client.post("/tokenize", json={"prompt": "x"}) as response:
            assert response.status == 503
        assert len(set(asked)) == 2


async def test_what_no_engine_serves_is_not_asked_of_all_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mock, asked, pass_on = MockDeployment(), list[str](), EngineClient.pass_on

    async def counted(self: EngineClient, method: str, path: str, *args: Any, **more: Any) -> Any:
        asked.append(path)
        return await pass_on(self, method, path, *args, **more)

    async with mock.running() as client:
        await mock.ready()
        monkeypatch.setattr(EngineClient, "pass_on", counted)
        for _ in range(5):
            async with client.post("/rerank", json={"query": "x"}) as response:
                assert response.status == 404
        assert asked.count("/rerank") == len(mock.engines)


@pytest.mark.parametrize(("gateway", "status"), [(TWO, 400), (SHARED, 404)])
async def test_no_text_is_embedded_where_an_engine_cannot_be_told_whose_cache_it_is(
    gateway: str, status: int
) -> None:
    """vLLM knows no ``cache_salt`` at ``/v2/embed``."""
    mock = MockDeployment(gateway=gateway)
    async with mock.running() as client:
        await mock.ready()
        body = {"texts": [SECRET], "cache_salt": "x"}
        async with client.post("/v2/embed", json=body, headers=MALLORY) as response:
            assert response.status == status, "404: nobody serves it here"
            assert ("/v1/embeddings" in await response.text()) is (status == 400)


async def test_texts_to_be_embedded_count_among_its_tokens() -> None:
    mock = MockDeployment(
        gateway="""
  tenants:
    - {name: mallory, api_keys: [mal-key], max_tokens: 100}
"""
    )
    async with mock.running() as client:
        await mock.ready()
        body = {"input": "x" * 4000}
        async with client.post("/v1/embeddings", json=body, headers=MALLORY) as response:
            assert response.status == 400
            assert "more than the 100" in await response.text()


async def test_pictures_to_be_embedded_count_as_their_engine_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mock = MockDeployment(
        gateway="""
  tenants:
    - {name: mallory, api_keys: [mal-key], tokens_per_min: 600}
"""
    )

    async def counts(content: bytes) -> Counts:
        return (await counts_in(content))._replace(prompt=1200)

    monkeypatch.setattr(client_api, "counts_in", counts)
    for engine in mock.engines.values():
        engine.embeds = True
    async with mock.running() as client:
        await mock.ready()
        for status in (200, 429):
            body = {"input": "a"}
            async with client.post("/v1/embeddings", json=body, headers=MALLORY) as response:
                assert response.status == status


@pytest.mark.parametrize(("tenants", "passed_on"), [(SHARED, None), ("", -5)])
async def test_no_priority_of_a_body_comes_before_other_tenants(
    tenants: str, passed_on: int | None
) -> None:
    mock = MockDeployment(gateway=tenants)
    async with mock.running() as client:
        await mock.ready()
        for prompt in ("short", SECRET):
            assert (await ask(client, MALLORY, prompt, priority=-5)).status == 200
        asked = [body for e in mock.engines.values() for path, body, _ in e.requests]
        assert {body.get("priority") for body in asked if "prompt" in body} == {passed_on}


@pytest.mark.parametrize(
    "asked",
    [
        {"echo": True, "n": 1 << 62},
        {"echo": True, "max_tokens": 1 << 62},
        {"max_tokens": 1 << 62},
        {"echo": True, "n": 1 << 62, "max_tokens": 1 << 62, "stream": True},
    ],
)
async def test_no_number_of_a_body_ends_what_agents_keep_for_this_gateway(
    asked: dict[str, Any],
) -> None:
    """An agent that does not understand a renewal ends the session, and everybody's transfers."""
    mock = MockDeployment(gateway=TWO)
    async with mock.running() as client:
        await mock.ready()
        scheduler, most = mock.gateway.requests.scheduler, 16
        for name in ("d1", "d2"):
            mock.engines[name].first_token_gate.clear()
        held = [asyncio.ensure_future(ask(client, MALLORY, "x", **asked)) for _ in range(most)]
        await until(lambda: sum(engine.under_way for engine in mock.engines.values()) > 1)
        uses = {name: scheduler.sharing.use_of(name) for name in mock.engines}
        assert max(use.decode.held for use in uses.values()) > 0
        said = msgspec.json.encode(Renewal(name="g", engines=uses))
        assert msgspec.json.decode(said, type=Renewal).engines == uses
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)


async def test_slots_that_no_engine_has_are_none_that_come_free() -> None:
    """By how many did so it is said how long others would wait."""
    mock = MockDeployment(gateway=TWO)
    async with mock.running() as client:
        await mock.ready()
        view = mock.gateway.requests.scheduler.view
        assert isinstance(view, FleetState)
        most = max(engine.all_requests for engine in view.engines.values())
        for engine in mock.engines.values():
            engine.first_token_gate.clear()
        task = asyncio.ensure_future(ask(client, MALLORY, "x", echo=True, n=1 << 40))
        await until(lambda: any(engine.running for engine in view.engines.values()))
        assert max(engine.running for engine in view.engines.values()) == most
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize(
    ("chunk", "deadline", "status"),
    [(b"1\r\n \r\n", "1 s", 408), (b"40\r\n" + b" " * 64 + b"\r\n", "60 s", 200)],
)
async def test_a_body_in_chunks_of_a_few_bytes_takes_its_time(
    chunk: bytes, deadline: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kilobyte of them would take as long as a megabyte of another."""
    monkeypatch.setattr(bodies, "_BESIDE_BYTES_PER_S", 1.0)
    mock = MockDeployment(gateway=TWO, max_body="16 MiB", deadline=deadline)
    async with mock.running() as client:
        await mock.ready()
        assert client._base_url is not None
        reader, writer = await asyncio.open_connection(*parse_url(str(client._base_url)))
        head = "POST /v1/completions HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n"
        writer.write(f"{head}Authorization: {MALLORY['Authorization']}\r\n\r\n".encode())
        writer.write(chunk * (2_000_000 // len(chunk)))
        body = b'{"prompt": "x"}'
        with suppress(OSError):
            writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
            await writer.drain()
        assert (await reader.readline()).split()[1] == str(status).encode()
        writer.transport.abort()


async def test_a_list_of_which_each_number_is_a_chunk_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As clients send it that encode while they send."""
    monkeypatch.setattr(bodies, "_BESIDE_BYTES_PER_S", 4e6)
    mock = MockDeployment(gateway=TWO, max_body="16 MiB")
    encoded = json.JSONEncoder().iterencode({"prompt": [7] * 150_000, "max_tokens": 1})

    async def chunks() -> AsyncIterator[bytes]:
        for piece in encoded:
            yield piece.encode()

    async with mock.running() as client:
        await mock.ready()
        async with client.post(COMPLETIONS, data=chunks(), headers=MALLORY) as response:
            assert response.status == 200


async def test_many_small_prompts_are_not_read_one_by_one() -> None:
    mock = MockDeployment(gateway=TWO)
    async with mock.running() as client:
        await mock.ready()
        async with client.post(
            COMPLETIONS, json={"prompt": ["a"] * 10_000}, headers=MALLORY
        ) as response:
            assert response.status == 200
        assert not any(engine.renders_total for engine in mock.engines.values())


async def test_no_error_tells_where_engines_are() -> None:
    mock = MockDeployment(keys='["mal-key"]')
    async with mock.running() as client:
        await mock.ready()
        ports = [engine.url.rpartition(":")[2] for engine in mock.engines.values()]
        for engine in mock.engines.values():
            await engine.stop()
        for path in ("/tokenize", "/v1/embeddings", COMPLETIONS):
            async with client.post(path, json={"prompt": "x"}, headers=MALLORY) as response:
                said = await response.text()
                assert response.status == 503
                assert not [port for port in ports if port in said], said


async def test_no_tenant_sets_what_engines_and_the_gateway_say_to_each_other() -> None:
    mock = MockDeployment(gateway=TWO)
    async with mock.running() as client:
        await mock.ready()
        for more in (
            {"kv_transfer_params": {"prfaas": "import"}},
            {"vllm_xargs": {"kv_transfer_params": "a text: vLLM takes it for an object"}},
            {"ec_transfer_params": {"image": {"peer_host": "10.0.0.5", "peer_port": 1}}},
            {"vllm_xargs": {"ec_transfer_params": "a text"}},
            {"vllm_xargs": {"kv_cache_report_mode": "full"}},
        ):
            refused = await ask(client, MALLORY, **more)
            assert refused.status == 400, more
            assert "is set by the gateway" in refused.content
        assert (await ask(client, MALLORY, vllm_xargs={"session_id": "s"})).status == 200


async def test_no_client_names_its_session_at_a_length_that_engines_remember_without_end() -> None:
    """vLLM says the name with each change of its cache, and keeps ten thousand of these."""
    mock = MockDeployment(gateway=TWO)
    name = "s" * 2000
    async with mock.running() as client:
        await mock.ready()
        for more in ({"session_id": name}, {"vllm_xargs": {"session_id": name}}):
            refused = await ask(client, MALLORY, **more)
            assert refused.status == 400
            assert "session_id" in refused.content
        assert (await ask(client, {**MALLORY, "X-Session-ID": name})).status == 200
        named = {**MALLORY, "X-Session-ID": "short"}
        assert (await ask(client, named, session_id="s")).status == 200
        every = [r for engine in mock.engines.values() for r in engine.requests]
        assert {headers.get("X-Session-ID") for _, _, headers in every} == {None, "short"}
        assert {body.get("session_id") for _, body, _ in every} == {None, "s"}


async def test_who_is_kept_apart_from_nobody_cannot_say_a_tenants_salt() -> None:
    """Another gateway of the same engines may have one tenant alone."""
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        stolen = tenant_salt("alice", None)
        assert (await ask(client, {}, cache_salt=stolen)).status == 200
        assert (await ask(client, {}, "short", cache_salt=stolen)).status == 200
        assert len(salts(mock)) == 1
        assert not salts(mock) & {None, stolen}


async def test_what_an_engine_keeps_under_a_name_is_a_tenants_own() -> None:
    mock = MockDeployment(gateway=TWO)
    named = {"type": "image_url", "image_url": None, "uuid": "alices-scan"}
    body = {"messages": [{"role": "user", "content": [named, {"type": "text", "text": "read it"}]}]}
    async with mock.running() as client:
        await mock.ready()
        for who in (ALICE, ALICE, MALLORY):
            async with client.post("/v1/chat/completions", json=body, headers=who) as response:
                assert response.status == 200
        every = [b for e in mock.engines.values() for _, b, _ in e.requests if "messages" in b]
        names = {b["cache_salt"]: b["messages"][0]["content"][0]["uuid"] for b in every}
        assert len(names) == len(set(names.values())) == 2
        assert "alices-scan" not in names.values()


@pytest.mark.parametrize("path", ["/tokenize", "/v1/messages/count_tokens"])
async def test_nor_is_it_found_where_tokens_are_only_counted(path: str) -> None:
    mock = MockDeployment(gateway=TWO)
    stolen = tenant_salt("alice", "scan")
    async with mock.running() as client:
        await mock.ready()
        for who, name in ((ALICE, "scan"), (MALLORY, "scan"), (MALLORY, stolen)):
            part = {"type": "image_url", "image_url": None, "uuid": name}
            body = {"messages": [{"role": "user", "content": [part]}]}
            async with client.post(path, json=body, headers=who) as response:
                assert response.status == 200
        every = [b for e in mock.engines.values() for b in e.bodies(path)]
        names = [b["messages"][0]["content"][0]["uuid"] for b in every]
        assert len(set(names)) == 3
        assert names.count(stolen) == 1, "as alice's gateway calls it"
        assert "scan" not in names


async def test_texts_that_are_embedded_take_no_places_of_others() -> None:
    mock = MockDeployment(gateway=TWO, inflight=16)
    for engine in mock.engines.values():
        engine.embeds = True
        engine.first_token_gate.clear()
    async with mock.running() as client:
        await mock.ready()

        async def embed() -> int:
            body = {"input": "x"}
            async with client.post("/v1/embeddings", json=body, headers=MALLORY) as response:
                return response.status

        asked = [asyncio.create_task(embed()) for _ in range(20)]
        await until(lambda: sum(task.done() for task in asked) == 6)
        engines = mock.engines.values()
        await until(lambda: sum(len(e.bodies("/v1/embeddings")) for e in engines) == 14)
        assert {task.result() for task in asked if task.done()} == {429}
        async with client.post("/tokenize", json={"prompt": "a"}, headers=ALICE) as response:
            assert response.status == 200
        for engine in engines:
            engine.first_token_gate.set()
        assert sorted(await asyncio.gather(*asked)) == [200] * 14 + [429] * 6
        assert (await ask(client, MALLORY)).status == 200


async def test_bodies_that_do_not_come_take_no_places_of_others() -> None:
    mock = MockDeployment(gateway=TWO, inflight=16)
    head = (
        b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer mal-key\r\n"
        b"Content-Length: 2\r\n\r\n{"
    )
    async with mock.running() as client:
        await mock.ready()
        address = parse_url(str((await client.get("/health")).url.origin()))
        opened = [await asyncio.open_connection(*address) for _ in range(20)]
        for _, writer in opened:
            writer.write(head)
        await until(lambda: mock.gateway.requests._beside == 14)
        assert (await ask(client, ALICE)).status == 200
        assert (await ask(client, MALLORY)).status == 429
        for _, writer in opened:
            writer.transport.abort()
        await until(lambda: mock.gateway.requests._beside == 0)
        assert (await ask(client, MALLORY)).status == 200


LIMITED = """
  tenants:
    - {name: alice, api_keys: [alice-key]}
    - {name: mallory, api_keys: [mal-key], max_tokens: 100}
"""


@pytest.mark.parametrize(
    ("path", "more", "status"),
    [
        (COMPLETIONS, {"prompt": "a"}, 200),
        (COMPLETIONS, {"prompt": "a", "max_tokens": None}, 400),
        ("/v1/chat/completions", {"max_tokens": 4000}, 200),
        ("/v1/chat/completions", {}, 400),
        ("/v1/responses", {"input": "a", "previous_response_id": "r"}, 400),
    ],
    ids=str,
)
async def test_an_answer_of_which_no_length_is_said_counts_as_what_it_may_have(
    path: str, more: dict[str, Any], status: int
) -> None:
    """Where an engine reads the prompt itself: it answers for as long as its context has room."""
    mock = MockDeployment(gateway=LIMITED.replace("100", "5000"))
    async with mock.running() as client:
        await mock.ready()
        body = {"echo": True, **more}
        if "chat" in path:
            body["messages"] = [{"role": "user", "content": "a"}]
        async with client.post(path, json=body, headers=MALLORY) as response:
            assert response.status == status, await response.text()


@pytest.mark.parametrize(("longest", "status"), [(4800, 200), (6000, 400)])
async def test_which_is_what_the_context_of_its_model_has(
    longest: int, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mock_engine, "MAX_MODEL_LEN", longest)
    mock = MockDeployment(gateway=LIMITED.replace("100", "5000"))
    async with mock.running() as client:
        await mock.ready()
        body = {"echo": True, "messages": [{"role": "user", "content": "a"}]}
        async with client.post("/v1/chat/completions", json=body, headers=MALLORY) as response:
            assert response.status == status, await response.text()


@pytest.mark.parametrize("features", [{"a": 1}, None], ids=["picture", "prompt_logprobs"])
@pytest.mark.parametrize(("longest", "status"), [(4800, 200), (6000, 400)])
async def test_so_does_one_to_a_picture_as_its_renderer_says(
    longest: int, status: int, features: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = mock_engine._rendered

    def more_than_tokens(body: dict[str, Any], token_ids: list[int]) -> dict[str, Any]:
        sampling = {"max_tokens": longest, "skip_reading_prefix_cache": features is None}
        found = rendered(body, token_ids)
        return {**found, "features": features, "sampling_params": sampling}

    monkeypatch.setattr(mock_engine, "_rendered", more_than_tokens)
    mock = MockDeployment(gateway=LIMITED.replace("100", "5000"))
    async with mock.running() as client:
        await mock.ready()
        body = {"messages": [{"role": "user", "content": "a"}]}
        async with client.post("/v1/chat/completions", json=body, headers=MALLORY) as response:
            assert response.status == status, await response.text()


async def test_no_pictures_are_embedded_that_nobody_counts() -> None:
    mock = MockDeployment(gateway=LIMITED.replace("max_tokens", "tokens_per_min"))
    picture = {"type": "image_url", "image_url": {"url": "https://h/p"}}
    many = {"messages": [{"role": "user", "content": [picture] * 4}]}
    async with mock.running() as client:
        await mock.ready()
        for form, status in (("bytes_only", 400), ("float", 404)):  # 404: nobody serves it here.
            body = {**many, "encoding_format": form}
            async with client.post("/v1/embeddings", json=body, headers=MALLORY) as response:
                assert response.status == status


@pytest.mark.parametrize(
    "more",
    [
        {"n": "50"},
        {"n": 50.0},
        {"n": "50", "prompt": ["a", "b"]},
        {"max_tokens": "5000", "echo": True},
        {"max_completion_tokens": 1, "max_tokens": 5000, "echo": True},
        {"max_tokens": 10, "prompt_embeds": ["YQ=="] * 50},
    ],
    ids=str,
)
async def test_no_tenant_has_more_tokens_than_are_counted(more: dict[str, Any]) -> None:
    mock = MockDeployment(gateway=LIMITED)
    async with mock.running() as client:
        await mock.ready()
        asked = {"prompt": "x", "max_tokens": 10, **more}
        refused = await ask(client, MALLORY, **asked)
        assert refused.status == 400, refused.content
        assert "more than the 100" in refused.content
        assert not any(engine.bodies(COMPLETIONS) for engine in mock.engines.values())


async def test_what_engines_quote_of_a_request_is_not_kept() -> None:
    mock = MockDeployment(gateway=TWO)
    async with mock.running() as client:
        await mock.ready()
        for _ in range(3):
            assert SECRET in (await ask(client, ALICE, model=SECRET * 500)).content
        kept = sum(len(facts.error or "") for facts in mock.gateway.requests.recent)
        assert 0 < kept < 3 * 5000


async def test_no_words_with_which_an_engine_refuses_are_in_the_journal(tmp_path: Path) -> None:
    mock = MockDeployment(gateway=TWO, journal_file=tmp_path / "journal")
    async with mock.running() as client:
        await mock.ready()
        refused = await ask(client, ALICE, model=SECRET)
        assert SECRET in refused.content, "the engine quotes what it refuses"
    journal = (tmp_path / "journal").read_text()
    assert '"outcome":"refused"' in journal
    assert "merger" not in journal


async def test_nor_are_those_of_a_prefill_engine(tmp_path: Path) -> None:
    mock = MockDeployment(journal_file=tmp_path / "journal")

    async def refuses(*_: Any) -> web.Response:
        return mock_engine._error(400, f"{SECRET}: no")

    for engine in mock.engines.values():
        engine._prefill = refuses  # type: ignore[method-assign]
    async with mock.running() as client:
        await mock.ready()
        assert (await ask(client, {})).status == 200
    journal = (tmp_path / "journal").read_text()
    assert "PrefillFailed" in journal
    assert "merger" not in journal


async def test_no_log_quotes_what_an_engine_says_of_a_prompt(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    mock = MockDeployment()
    for engine in mock.engines.values():
        engine._refusal = lambda _: mock_engine._error(500, f"{SECRET}: no")  # type: ignore[method-assign]
    async with mock.running() as client:
        await mock.ready()
        assert "merger" in (await ask(client, {})).content
    assert "has tokenised no prompt" in caplog.text
    assert "merger" not in caplog.text


async def test_a_prompt_that_is_not_tokenised_counts_as_well() -> None:
    mock = MockDeployment(
        gateway="""
  tenants:
    - {name: mallory, api_keys: [mal-key], tokens_per_min: 600}
"""
    )
    async with mock.running() as client:
        await mock.ready()
        bodies = {"prompt": ["x" * 1500] * 4, "max_tokens": 1}
        async with client.post(COMPLETIONS, json=bodies, headers=MALLORY) as response:
            assert response.status == 200, "a full bucket gives more than it holds, once"
        refused = await ask(client, MALLORY, "a")
        assert refused.status == 429
        assert math.isclose(int(refused.headers["retry-after"]), 90, abs_tol=15)


@pytest.mark.parametrize("asked", [None, {"include_usage": "true"}])
async def test_tokens_of_a_stream_that_have_no_events_count_as_well(
    asked: dict[str, str] | None,
) -> None:
    """Reasoning that is not to be shown, or what a slow reader is sent at once."""
    mock = MockDeployment(
        gateway="""
  tenants:
    - {name: mallory, api_keys: [mal-key], tokens_per_min: 600}
"""
    )
    word = b'data: {"choices":[{"index":0,"text":" a"}]}\n\n'
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1200}}\n\n'
    for engine in mock.engines.values():
        engine.script = [word, usage, b"data: [DONE]\n\n"]
    async with mock.running() as client:
        await mock.ready()
        more = {} if asked is None else {"stream_options": asked}
        answer = await ask(client, MALLORY, "a", stream=True, max_tokens=2000, **more)
        (body,) = [
            body for engine in mock.engines.values() for path, body, _ in engine.requests
            if path == COMPLETIONS
        ]  # fmt: skip
        assert body["stream_options"]["include_usage"] in (True, "true")
        assert answer.status == 200
        assert answer.content.endswith("data: [DONE]\n\n")
        assert (usage.decode() in answer.content) is (asked is not None)
        assert (await ask(client, MALLORY, "a")).status == 429, "1,200 of 600 a minute"


async def test_no_event_of_a_stream_that_is_left_has_as_many_tokens_as_its_client_says() -> None:
    """vLLM gathers ``stream_interval`` of them; what a stream has that is left is its events."""
    mock = MockDeployment(
        gateway="""
  tenants:
    - {name: mallory, api_keys: [mal-key], tokens_per_min: 600}
"""
    )

    async def answers(request: web.Request, body: dict[str, Any], _: Any) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        gathered = body.get("stream_interval", 1)
        for _ in range(1400 // gathered):
            text = {"index": 0, "text": " a" * gathered}
            await response.write(b"data: " + json.dumps({"choices": [text]}).encode() + b"\n\n")
        await asyncio.Event().wait()
        return response

    for engine in mock.engines.values():
        engine._answer = answers  # type: ignore[method-assign]
    async with mock.running() as client:
        await mock.ready()
        body = {"prompt": "a", "stream": True, "max_tokens": 2000, "stream_interval": 700}
        async with client.post(COMPLETIONS, json=body, headers=MALLORY) as response:
            words = 0
            while words < 1400:
                words += (await response.content.readany()).count(b" a")
        await until(lambda: mock.gateway.requests.inflight == 0)
        assert (await ask(client, MALLORY, "a")).status == 429, "1,400 of 600 a minute"


@pytest.mark.parametrize("stream", [False, True])
async def test_tokens_of_a_prompt_that_only_its_engine_knows_count_as_well(stream: bool) -> None:
    """As of a picture that is named by where it is."""
    mock = MockDeployment(
        gateway="""
  tenants:
    - {name: mallory, api_keys: [mal-key], tokens_per_min: 600}
"""
    )
    usage = {"usage": {"prompt_tokens": 1200, "completion_tokens": 1}}
    end = {"choices": [], **usage}
    event = b"data: " + json.dumps(end, separators=(",", ":")).encode() + b"\n\n"
    async with mock.running() as client:
        await mock.ready()
        for engine in mock.engines.values():
            engine._usage = lambda *_: usage  # type: ignore[method-assign]
            engine.script = [b'data: {"choices":[{"index":0}]}\n\n', event, b"data: [DONE]\n\n"]
        answer = await ask(client, MALLORY, "a", max_tokens=1, echo=True, stream=stream)
        assert answer.status == 200
        assert (await ask(client, MALLORY, "a")).status == 429, "1,200 of 600 a minute"


async def test_tokens_of_a_whole_answer_that_are_not_shown_count_as_well() -> None:
    mock = MockDeployment(
        gateway="""
  tenants:
    - {name: mallory, api_keys: [mal-key], tokens_per_min: 600}
"""
    )
    usage = {"usage": {"prompt_tokens": 1, "completion_tokens": 1200}}
    async with mock.running() as client:
        await mock.ready()
        for engine in mock.engines.values():
            engine._usage = lambda *_: usage  # type: ignore[method-assign]
        answer = await ask(client, MALLORY, "a", max_tokens=2000)
        assert answer.status == 200
        assert len(answer.content) < 1000
        assert (await ask(client, MALLORY, "a")).status == 429, "1,200 of 600 a minute"


async def test_a_prompt_counts_that_its_engine_took_long_to_refuse(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """vLLM computes all of an answer in which a number of its request is said again that JSON has
    no word for, such as 1e999 in a schema, and says 400 then."""
    monkeypatch.setattr(facts, "LOOKED_AT_S", 0.05)
    mock = MockDeployment(
        gateway="""
  tenants:
    - {name: mallory, api_keys: [mal-key], tokens_per_min: 600}
"""
    )

    async def refuses(*_: Any) -> web.Response:
        await asyncio.sleep(0.1)
        return mock_engine._error(400, "Out of range float values are not JSON compliant")

    for engine in mock.engines.values():
        engine._answer = refuses  # type: ignore[method-assign]
    async with mock.running() as client:
        await mock.ready()
        for status in (400, 429):
            answer = await ask(client, MALLORY, "x" * 4800, echo=True, max_tokens=1)
            assert answer.status == status, answer.content


async def test_a_key_is_exchanged_while_its_tenant_is_answered(tmp_path: Path) -> None:
    file = tmp_path / "alice"
    file.write_text("alice-key\n")
    mock = MockDeployment(
        gateway=f"""
  tenants:
    - {{name: alice, api_keys_file: {file}}}
    - {{name: mallory, api_keys: [mal-key]}}
"""
    )
    async with mock.running() as client:
        await mock.ready()
        mock.engines["d1"].middle_gate.clear()
        mock.engines["d2"].middle_gate.clear()
        body = {"prompt": "short", "stream": True}
        async with client.post(COMPLETIONS, json=body, headers=ALICE) as running:
            await until(lambda: mock.gateway.requests.inflight == 1)
            file.write_text("another-key\n")
            mock.gateway.become(parse_deployment(mock.deployment_text(), source="f"), source="f")
            assert (await ask(client, ALICE)).status == 401
            file.write_text("")
            with pytest.raises(ConfigError, match="no key is left"):
                mock.gateway.become(
                    parse_deployment(mock.deployment_text(), source="f"), source="f"
                )
            for name in ("d1", "d2"):
                mock.engines[name].middle_gate.set()
            assert (await running.text()).endswith("data: [DONE]\n\n")
        assert (await ask(client, {"Authorization": "Bearer another-key"})).status == 200
