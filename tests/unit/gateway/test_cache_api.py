"""Agents' caches as operators see them, and as engines are told of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from prfaas.core.cache_news import Evicted, Stored
from prfaas.core.prefixes import chain, root_digest, stretch
from prfaas.gateway.body import tenant_salt
from prfaas.index.keyed_prefixes import PLAINTEXT_KEY, KeyedPrefixes
from prfaas.testing.mock_deployment import BLOCK_TOKENS, MockDeployment

PROMPT = "a long prompt that is certainly longer than the threshold of forty tokens"
TOKENS = list(PROMPT.encode())
BOUNDARY = (len(TOKENS) - 1) // BLOCK_TOKENS * BLOCK_TOKENS
COMPLETIONS = "/v1/completions"
KEYED = KeyedPrefixes(PLAINTEXT_KEY)


class Site(MockDeployment):
    client: aiohttp.ClientSession

    def cache(self, agent: str, engine: str, tokens: int) -> None:
        """The agent says that it has so much of the prompt, for engines like this one."""
        root = root_digest("w", adapter=None, salt=None)
        prefix = stretch(
            chain(root, TOKENS, BLOCK_TOKENS), root, TOKENS, block_tokens=BLOCK_TOKENS,
            from_token=0, to_token=tokens, salt=None, adapter=None,
        )  # fmt: skip
        layout = self.gateway.fleet.layouts.loads(engine)
        assert prefix is not None
        assert layout is not None
        self.gateway.pools.take(agent, Stored("x", 0, 1, layout, KEYED.keyed(prefix)))

    async def told(self, method: str, path: str, **body: Any) -> tuple[int, Any]:
        async with self.client.request(method, path, json=body or None) as answer:
            return answer.status, await answer.json()


@pytest.fixture
async def site(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    async def nothing(*_: object) -> None:
        await asyncio.Event().wait()

    # What agents tell would take away what a test has told, sooner or later.
    monkeypatch.setattr("prfaas.gateway.gateway.watch_cache", nothing)
    mock = Site()
    async with mock.running() as client:
        mock.client = client
        await mock.ready()
        yield mock


async def test_a_query_says_who_has_how_much(site: Site) -> None:
    site.cache("west-agent", "d1", 16)
    for body in ({"prompt": PROMPT}, {"prompt": PROMPT, "max_tokens": 3}):
        status, found = await site.told("POST", "/cache/query", **body)
        assert status == 200, found
        assert found["prompt_tokens"] == len(TOKENS)
        held = {"cached_tokens": 16, "pool_tokens": 16}
        assert found["engines"] == dict.fromkeys(("p1", "d1", "d2"), held)
    status, found = await site.told("GET", "/cache")
    assert (status, found["agents"]["west-agent"]) == (200, 1)
    assert found["blocks"] == {"engines": 0, "agents": 16 // BLOCK_TOKENS}
    site.gateway.pools.take("west-agent", Evicted("x", 0, 1))
    status, found = await site.told("POST", "/cache/query", prompt=PROMPT)
    assert found["engines"] == {}


@pytest.mark.parametrize("body", [{}, {"model": "m"}, {"prompt": ["a", "b"]}])
async def test_what_is_no_prompt_is_refused(site: Site, body: dict[str, Any]) -> None:
    status, found = await site.told("POST", "/cache/query", **body)
    assert status == 400, found


async def test_ids_that_are_no_tokens_are_refused_wherever_they_are(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """A pull, and who asks for a cache, look at all of a prompt; what engines hold needs only its
    beginning."""
    site.cache("east-agent", "e1", 16)
    odd = TOKENS[:16] + [7] * 600 + [1 << 40] + [7] * BLOCK_TOKENS
    for path in ("/cache/query", "/cache/pin", COMPLETIONS):
        status, found = await site.told("POST", path, prompt=odd)
        assert (status, found["error"]["param"]) == (400, "prompt"), path
    assert "Traceback" not in caplog.text


async def test_an_engine_is_told_to_load_all_that_its_agent_has(site: Site) -> None:
    site.cache("west-agent", "d1", BOUNDARY)
    async with site.client.post(COMPLETIONS, json={"prompt": PROMPT}) as answer:
        assert answer.status == 200
        assert answer.headers["x-prfaas-pool-tokens"] == str(BOUNDARY)
        assert answer.headers["x-prfaas-route"].startswith("direct")
        decoder = site.engines[answer.headers["x-prfaas-decode-engine"]]
    (asked,) = decoder.bodies(COMPLETIONS)
    params = asked["kv_transfer_params"]
    assert params.pop("context")["attempt"] == 1
    assert params == {"prfaas": "load", "pool_tokens": BOUNDARY}


async def test_of_a_hand_off_both_engines_are_told_what_their_own_agent_has(site: Site) -> None:
    site.cache("west-agent", "d1", 16)
    site.cache("east-agent", "e1", 24)
    async with site.client.post(COMPLETIONS, json={"prompt": PROMPT}) as answer:
        assert answer.status == 200
        assert answer.headers["x-prfaas-route"].startswith("offload")
        decoder = site.engines[answer.headers["x-prfaas-decode-engine"]]
    (prefill,) = site.engines["e1"].bodies(COMPLETIONS)
    assert prefill["kv_transfer_params"]["pool_tokens"] == 24
    assert prefill["kv_transfer_params"]["from_token"] == 16
    (decode,) = decoder.bodies(COMPLETIONS)
    assert decode["kv_transfer_params"]["pool_tokens"] == 16
    assert decode["kv_transfer_params"]["from_token"] == 16


async def test_a_warmed_prompt_is_asked_for_one_token_and_kept(site: Site) -> None:
    short = "hey"  # no block to hand over
    body = {"prompt": short, "max_tokens": 90, "stream": True, "n": 3, "temperature": 0.5}
    status, found = await site.told("POST", "/cache/warm", **body)
    assert status == 200, found
    assert (found["prompt_tokens"], found["cached_tokens"]) == (len(short), 0)
    (asked,) = site.engines[found["engine"]].bodies(COMPLETIONS)
    params = asked["kv_transfer_params"]
    assert params.pop("context")["attempt"] == 1
    assert params == {"prfaas": "load", "pool_tokens": 0, "keep": True}
    assert (asked["max_tokens"], asked["stream"], "n" in asked) == (1, False, False)
    # What is handed over is cached anyway.
    status, found = await site.told("POST", "/cache/warm", prompt=PROMPT)
    assert found["route"].startswith("offload")
    decoded = site.engines[found["engine"]].bodies(COMPLETIONS)[-1]
    assert decoded["kv_transfer_params"]["prfaas"] == "import"


async def test_whose_prompt_it_is_must_be_said_where_caches_are_apart() -> None:
    tenants = "tenants: [{name: a, api_keys: [a]}, {name: b, api_keys: [b]}]\n  operator_keys: [op]"
    mock = MockDeployment(gateway=f"  {tenants}")
    async with mock.running() as client:
        await mock.ready()
        operator = {"Authorization": "Bearer op"}

        async def warm(query: str, headers: dict[str, str] = operator) -> tuple[int, Any]:
            async with client.post(
                f"/cache/warm{query}", json={"prompt": "short"}, headers=headers
            ) as answer:
                return answer.status, await answer.json()

        assert (await warm("", {"Authorization": "Bearer a"}))[0] == 401
        for query in ("", "?tenant=c"):
            status, found = await warm(query)
            assert (status, "?tenant= one of a, b" in found["error"]["message"]) == (400, True)
        status, found = await warm("?tenant=b")
        assert status == 200, found
        (asked,) = mock.engines[found["engine"]].bodies(COMPLETIONS)
        assert asked["cache_salt"] == tenant_salt("b", None)
