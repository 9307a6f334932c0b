"""Real engines and their agents' caches: what was computed once is loaded, and changes no token.

Prompts are offloaded, then the decode engine is killed: its own cache is gone, its agent's is not.
Asked again, they come from there. One prompt's bytes are zeroed in the cache meanwhile: its answer
must be another, or the load would prove nothing.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Collection
from functools import partial
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from prfaas.core.cache_news import CacheNews, Stored, Whole
from prfaas.core.layout import KvLayout
from prfaas.core.prefixes import chain, root_digest
from prfaas.engine_socket.client import AgentClient
from prfaas.gateway.feeds import cache_key
from prfaas.index.keyed_prefixes import KeyedPrefixes
from prfaas.testing import waiting
from prfaas.testing.calling import Answer, call, metric, shown_to
from prfaas.testing.comparing import assert_same_or_near_tie, greedy
from prfaas.testing.measuring import prompt
from prfaas.testing.running import RunningDeployment
from prfaas.vllm_plugin.prefix_names import weights_identity

pytestmark = pytest.mark.engine

LENGTHS = {"gdn": 1200, "sliding_window": 1200, "dense": 3000, "mla": 1200}
until = partial(waiting.until, within_s=300.0)
"""Or it never happens."""


def ask(url: str, model: str, ids: list[int], **more: Any) -> Answer:
    answer = call(f"{url}/v1/completions", greedy(model, ids, **more))
    assert answer.status == 200, answer.body
    return answer


def choice(answer: Answer) -> dict[str, Any]:
    found: dict[str, Any] = answer.json()["choices"][0]
    return found


def loaded_tokens(answer: Answer) -> int:
    return int(answer.headers.get("x-prfaas-pool-tokens", 0))


def is_replaced(running: RunningDeployment, name: str, before: Collection[int]) -> bool:
    """Whether ``name`` runs, and in none of these processes."""
    try:
        now = running.pids(name)
    except KeyError:
        return False
    return bool(now) and not set(now) & set(before)


def restart(running: Any, engine: str) -> None:
    """kill -9, and wait until the gateway gives it work again."""
    before = running.pids(engine)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    until(lambda: is_replaced(running, engine, before), "it was not replaced")
    until(running.ready, f"{engine} did not come back")


def cached(admin: str) -> list[Stored]:
    """What an agent has cached, with names."""
    import urllib.request

    found: list[Stored] = []
    url = f"{admin}/cache/events"
    with urllib.request.urlopen(url, timeout=30, context=shown_to(url)) as lines:
        for line in lines:
            news = msgspec.json.decode(line, type=CacheNews)  # type: ignore[arg-type]
            if isinstance(news, Whole):
                return found
            if isinstance(news, Stored):
                found.append(news)
    raise AssertionError("the cache's news ended")


def named(
    model: str, ids: list[int], entries: list[Stored], keyed: KeyedPrefixes
) -> tuple[tuple[bytes, ...], list[Stored]]:
    """What engines call this prompt's blocks, and which of these it is in."""
    config = SimpleNamespace(model=model, revision=None)
    root = root_digest(weights_identity(config), adapter=None, salt=None)  # type: ignore[arg-type]
    names = chain(root, ids, entries[0].prefix.block_tokens)
    secret = [keyed.name(name) for name in names]
    return names, [e for e in entries if e.prefix.digests[-1] in secret]


def zero(
    running: Any,
    ids: list[int],
    patched: pytest.MonkeyPatch,
    machine: str = "west",
    engine: str = "west-decode",
) -> None:
    """Of all that is cached of this prompt on a machine."""
    west = running.admin(machine)
    ranks = call(f"{west}/engines").json()["engines"]
    rank = next(e for e in ranks if e["engine"] == engine)
    key = cache_key(running.deployment)
    assert key is not None
    names, (entry,) = named(running.deployment.model.path, ids, cached(west), KeyedPrefixes(key))
    with patched.context() as patch:
        patch.setattr("os.getpid", lambda: rank["pid"])
        client = AgentClient(
            next(m for m in running.deployment.machines if m.name == machine).agent.socket,
            engine=engine,
            layout=msgspec.convert(rank["layout"], KvLayout),
        )
        try:
            client.wait_connected(30)
            load = client.open_load(
                local_tokens=0,
                to_token=entry.prefix.end_token,
                block_tokens=entry.prefix.block_tokens,
                names=names,
            )
            (part,) = load.future.result(30)
            for extent in part.extents:
                load.session.arena[extent.arena_offset : extent.arena_end] = bytes(extent.length)
            client.close_load(load)
        finally:
            client.close()


@pytest.mark.parametrize("kind", list(LENGTHS))
def test_a_restarted_engine_goes_on_from_the_cache(
    stacks: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = stacks.get(kind)
    running, model, size = stack.running, stack.model, LENGTHS[kind]
    west, decode = running.admin("west"), running.engine("west-decode").url
    whole, damaged, longer = (prompt(f"{name} {kind}", size) for name in ("w", "d", "l"))
    boundary = (size - 1) // stack.block_tokens * stack.block_tokens
    for ids in (whole, damaged, longer):
        answer = ask(running.url, model, ids)
        assert answer.headers["x-prfaas-route"].startswith("offload"), answer.headers
        assert not loaded_tokens(answer)
    until(lambda: len(cached(west)) >= 3, "the transfers were not cached")

    restart(running, "west-decode")
    zero(running, damaged, monkeypatch)
    before = metric(west, "prfaas_pool_loads_total", outcome="ready")

    again = ask(running.url, model, whole)
    assert loaded_tokens(again) == boundary, again.headers
    assert again.headers["x-prfaas-route"].startswith("direct"), again.headers
    assert metric(west, "prfaas_pool_loads_total", outcome="ready") == before + 1
    assert metric(decode, "vllm:external_prefix_cache_hits_total") == boundary
    ask(stack.plain.url, model, whole)  # its second answer has the decode engine's schedule
    stock = ask(stack.plain.url, model, whole)
    assert_same_or_near_tie(choice(again), choice(stock))
    if kind != "mla":
        assert choice(again)["token_ids"] == choice(stock)["token_ids"]

    broken = ask(running.url, model, damaged)
    assert loaded_tokens(broken) == boundary
    stock = ask(stack.plain.url, model, damaged)
    assert choice(broken)["token_ids"] != choice(stock)["token_ids"]

    # Another salt is another tenant: the same tokens are not in its cache.
    salted = ask(running.url, model, damaged, cache_salt="another tenant's")
    assert not loaded_tokens(salted)
    assert_same_or_near_tie(choice(salted), choice(stock))

    # The first blocks from the cache, what follows over the line.
    more = [*longer, *prompt(f"more {kind}", size)]
    mixed = ask(running.url, model, more)
    assert not mixed.headers["x-prfaas-route"].startswith("direct"), mixed.headers
    assert loaded_tokens(mixed) == boundary
    assert metric(west, "prfaas_pool_loads_total", outcome="ready") == before + 3
    assert_same_or_near_tie(choice(mixed), choice(ask(stack.plain.url, model, more)))
