"""What the scheduler may count on of each engine's cache."""

from __future__ import annotations

import pytest

from prfaas.core.deployment import EngineRole
from prfaas.gateway.endpoints import EngineEndpoint
from prfaas.gateway.prefix_matches import match_engines, usable_prefix
from prfaas.index.cache_events import BlocksStored
from prfaas.index.keys import PromptKeys
from prfaas.index.matching import PrefixMatch
from prfaas.index.prefix_index import PrefixIndex

TOKENS = list(range(20))


def endpoint(name: str, role: EngineRole) -> EngineEndpoint:
    return EngineEndpoint(
        name=name,
        cluster="c",
        machine="c",
        agent="a",
        role=role,
        url="",
        kv_events=None,
        kv_events_replay=None,
    )


def hold(index: PrefixIndex, engine: str, tokens: int, *, states: int | None = None) -> None:
    """Let the engine hold the KV cache of so many tokens, and (with ``states``) the state after so
    many."""
    held = index.engine(engine)
    groups = [(0, "full_attention", range(tokens // 4))]
    if states is not None:
        groups.append((1, "mamba", range(states // 4 - 1, states // 4)))
    for group, kind, blocks in groups:
        for block in blocks:
            held.stored(
                BlocksStored(
                    group=group,
                    kind=kind,
                    block_tokens=4,
                    hashes=[block],
                    parent=block - 1 if block else None,
                    token_ids=TOKENS[4 * block : 4 * block + 4],
                )
            )


@pytest.mark.parametrize(
    ("role", "transferable", "reusable", "expected"),
    [
        ("decode", 0, 0, 0),
        ("decode", 8, 0, 8),
        ("decode", 16, 16, 16),  # all it needs: a direct answer costs it one block
        ("decode", 16, 8, 12),  # blocks without the state: something must be sent
        ("decode", 12, 4, 12),
        ("prefill", 16, 8, 8),
    ],
)
def test_usable_prefix(role: EngineRole, transferable: int, reusable: int, expected: int) -> None:
    match = PrefixMatch(transferable, reusable)
    assert usable_prefix(role, match, prompt_tokens=20, block_tokens=4) == expected


def test_engines_that_hold_nothing_are_left_out() -> None:
    engines = {name: endpoint(name, "decode") for name in ("d1", "d2")}
    index = PrefixIndex(max_blocks=100)
    hold(index, "d1", 8)
    hold(index, "d2", 0)
    alignment = {"d1": 4, "d2": 4}
    keys = PromptKeys(TOKENS)
    found = match_engines(keys, index, engines, prompt_tokens=20, alignment_tokens=alignment)
    assert (found.cached, found.resumable) == ({"d1": 8}, {})


def test_each_engine_counts_by_its_role() -> None:
    """Without the state a prefill engine can go on from nothing, a decode engine gets it sent."""
    engines = {"d": endpoint("d", "decode"), "p": endpoint("p", "prefill")}
    index = PrefixIndex(max_blocks=100)
    for name in engines:
        hold(index, name, 12, states=4)
    alignment = {"d": 4, "p": 4}
    keys = PromptKeys(TOKENS)
    found = match_engines(keys, index, engines, prompt_tokens=20, alignment_tokens=alignment)
    assert (found.cached, found.resumable) == ({"d": 12, "p": 4}, {"d": 4})
