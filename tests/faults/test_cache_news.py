"""What an agent tells of its cache, as it is inside the TLS that carries it: whoever could decrypt
it, or stands behind it, finds no token id, no salt and no hash of an engine's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import pytest

from prfaas.agent.service import Agent
from prfaas.agent.settings import settings_for
from prfaas.core.cache_news import CacheNews, KeyedWith, Stored
from prfaas.core.deployment import Deployment, parse_deployment
from prfaas.core.prefixes import PromptPrefix, chain, root_digest, stretch
from prfaas.engine_socket.messages import OpenImport
from prfaas.gateway.feeds import cache_key
from prfaas.gateway.pools import Holder, Pools
from prfaas.index.keys import PromptKeys
from prfaas.testing.mock_engine_rank import MOCK_DIGEST, MockEngineRank
from prfaas.tls.authority import create_authority, issue
from prfaas.tls.context import client_context
from prfaas.tls.files import TlsFiles

SIZE = 100_000
BLOCK = 16
TOKENS = list(range(1_234_000, 1_234_032))
SALT = "salt-of-the-tenant"


def prompt() -> PromptPrefix:
    root = root_digest("w", adapter=None, salt=SALT)
    found = stretch(
        chain(root, TOKENS, BLOCK), root, TOKENS, block_tokens=BLOCK,
        from_token=0, to_token=BLOCK, salt=SALT, adapter=None,
    )  # fmt: skip
    assert found is not None
    return found


def deployment(certs: Path, run: Path) -> Deployment:
    own = f"ca: {certs}/ca.pem, cert: {certs}/%s.pem, key: {certs}/%s-key.pem"
    return parse_deployment(
        f"""
clusters:
- name: west
  kind: pd
  engines: [{{name: p, role: prefill}}, {{name: pdd, role: decode}}]
  agent: {{name: a, socket: {run}/s, arena: 4 MiB, slot: 64 KiB, tls: {{{own % ("a", "a")}}}}}
gateway: {{agent_tls: {{{own % ("gateway", "gateway")}}}}}
""",
        source="test",
    )


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    certs = tmp_path / "certs"
    create_authority(certs)
    for name in ("a", "gateway"):
        issue(certs, name)
    agent = Agent(settings_for(deployment(certs, tmp_path), "a"))
    await agent.start()
    try:
        yield agent
    finally:
        await agent.close()


def hand_over(socket: Path, name: str = "x") -> None:
    """One machine's prefill engine to its decode engine; both say of which prompt it is."""
    prefill, decode = MockEngineRank(str(socket), "p"), MockEngineRank(str(socket), "pdd")
    try:
        prefill.begin(name, "a", SIZE)
        prefill.client.describe(name, prompt())
        done = 0
        while done < SIZE:
            done = prefill.hand_over(name, done, SIZE)
        assert prefill.client.finish_export(name) is None
        opened = decode.client.open_import(OpenImport(name, 0, BLOCK, SIZE, MOCK_DIGEST))
        opened.future.result(30)
        decode.client.describe(name, prompt())
        decode.client.close_import(opened)
        del opened
    finally:
        prefill.client.close()
        decode.client.close()


async def test_inside_the_tls_there_is_no_token_no_salt_and_no_hash(
    agent: Agent, tmp_path: Path
) -> None:
    certs = tmp_path / "certs"
    shown = client_context(
        TlsFiles(certs / "ca.pem", certs / "gateway.pem", certs / "gateway-key.pem")
    )
    key = cache_key(deployment(certs, tmp_path))
    assert key is not None
    pools = Pools(key, max_blocks=100, most_holders=2)
    stream, news = b"", list[CacheNews]()
    async with aiohttp.ClientSession() as http:
        await asyncio.to_thread(hand_over, agent.settings.socket)
        async with http.delete(f"{agent.admin_url}/transfers/x", ssl=shown) as answer:
            assert answer.status == 204
        async with http.get(f"{agent.admin_url}/cache/events", ssl=shown) as lines:
            async for line in lines.content:
                stream += line
                news.append(msgspec.json.decode(line, type=CacheNews))  # type: ignore[arg-type]
                pools.take("a", news[-1])
                if isinstance(news[-1], Stored):
                    break
    assert isinstance(news[0], KeyedWith)
    for token in TOKENS:
        assert str(token).encode() not in stream
    plain = prompt()
    for secret in (SALT.encode(), plain.parent, *plain.digests, plain.tokens[:16]):
        assert secret not in stream
        assert msgspec.json.encode(secret)[1:20] not in stream, "not as base64 either"
    # And yet a gateway finds the prompt in it.
    found = pools.match(PromptKeys(TOKENS, salt=SALT)).tokens
    assert list(found.values()) == [BLOCK]
    (holder,) = found
    assert isinstance(holder, Holder)
    assert pools.match(PromptKeys(TOKENS, salt="another")).tokens == {}
