"""What agents' caches could give, and which engines can load it."""

from __future__ import annotations

import asyncio
import types
from collections.abc import AsyncGenerator
from itertools import pairwise
from typing import cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.core.cache_news import Alive, CacheNews, Evicted, KeyedWith, Stored, Whole
from prfaas.core.prefixes import Prefix, chain, root_digest, stretch
from prfaas.gateway import holdings, part_ends
from prfaas.gateway import pools as pool_module
from prfaas.gateway.agent_client import AgentClient
from prfaas.gateway.endpoints import EngineEndpoint
from prfaas.gateway.pools import Held, Holder, Pools
from prfaas.gateway.prefix_matches import Matches, with_pools
from prfaas.index.keyed_blocks import key_id
from prfaas.index.keyed_prefixes import KeyedPrefixes, keys_of
from prfaas.index.keys import Keys, KnownTokens, PromptKeys

BLOCK = 4
TOKENS = list(range(50, 90))
KNOWN = KnownTokens(TOKENS)
HOLDER = Holder("west", "layout")
KEY = b"the cache key"
KEYED = KeyedPrefixes(KEY)


def stored(
    name: str,
    end: int,
    *,
    start: int = 0,
    stands_at: int | None = None,
    salt: str | None = None,
    adapter: str | None = None,
    layout: str = "layout",
    tokens: list[int] | None = None,
    keyed: KeyedPrefixes | None = None,
) -> Stored:
    ids = tokens or TOKENS
    root = root_digest("w", adapter=adapter, salt=salt)
    prefix = stretch(
        chain(root, ids, BLOCK), root, ids, block_tokens=BLOCK,
        from_token=start, to_token=end, salt=salt, adapter=adapter,
    )  # fmt: skip
    assert prefix is not None
    return Stored(name, 0, 1, layout, (keyed or KEYED).keyed(prefix), stands_at)


def pools(*news: Stored) -> Pools:
    found = Pools(KEY, max_blocks=1000, most_holders=4)
    for one in news:
        found.take("west", one)
    return found


def match(
    found: Pools, tokens: list[int] | None = None, *, salt: str | None = None, adapter: str = ""
) -> int:
    keys = PromptKeys(tokens or TOKENS, salt=salt, adapter=adapter or None)
    every = found.match(keys).tokens
    found.index.check_integrity()
    assert every.keys() <= {HOLDER}
    return every.get(HOLDER, 0)


def test_blocks_of_full_attention_serve_as_far_as_the_prompt_is_alike() -> None:
    found = pools(stored("x", 20))
    assert match(found) == 20
    assert match(found, TOKENS[:11]) == 8
    assert match(found, [*TOKENS[:9], 1, 2, 3, 4, 5, 6, 7]) == 8
    assert match(found, [1, *TOKENS[1:]]) == 0


def test_a_state_serves_at_its_own_token_alone() -> None:
    found = pools(stored("x", 20, stands_at=20))
    assert match(found) == 20
    assert match(found, TOKENS[:19]) == 0
    found.take("west", stored("y", 8, stands_at=8))
    assert match(found, TOKENS[:19]) == 8


def test_turns_follow_each_other_and_without_the_first_the_second_is_nothing() -> None:
    found = pools(stored("first", 8, stands_at=8), stored("second", 20, start=8, stands_at=20))
    assert match(found) == 20
    assert match(pools(stored("second", 20, start=8, stands_at=20))) == 0


def test_behind_what_the_agent_does_not_know_there_is_no_key() -> None:
    told = stored("second", 20, start=8, keyed=KeyedPrefixes(KEY))
    assert told.prefix.keys == b""
    assert match(pools(stored("first", 8), told)) == 8
    there = KeyedPrefixes(KEY)
    there.learn(stored("first", 8).prefix)  # as it comes from another agent
    assert stored("second", 20, start=8, keyed=there) == stored("second", 20, start=8)


def test_what_is_told_under_another_key_is_not_believed(caplog: pytest.LogCaptureFixture) -> None:
    found = Pools(KEY, max_blocks=1000, most_holders=4)
    for _ in range(2):
        found.take("west", KeyedWith(key_id(b"another")))
        found.take("west", stored("x", 20, keyed=KeyedPrefixes(b"another")))
    assert found.entries() == {}
    assert caplog.text.count("agent west has another cache key") == 1
    found.take("west", KeyedWith(key_id(KEY)))
    found.take("west", stored("x", 20))
    assert match(found) == 20


def test_salts_and_adapters_are_apart() -> None:
    found = pools(stored("x", 20, salt="s"), stored("y", 12, adapter="a"))
    assert match(found) == 0
    assert match(found, salt="s") == 20
    assert match(found, adapter="a") == 12
    assert match(found, adapter="a", salt="s") == 0


def test_what_was_evicted_is_gone_unless_another_holds_it() -> None:
    found = pools(stored("x", 20), stored("y", 8))
    found.take("west", Evicted("x", 0, 1))
    assert match(found) == 8
    found.take("west", Evicted("y", 0, 1))
    assert match(found) == 0
    found.take("west", Evicted("y", 0, 1))  # told again
    found.take("west", Whole())
    found.take("west", stored("x", 20))
    found.take("west", stored("x", 20))
    assert match(found) == 20
    found.take("west", Evicted("x", 0, 1))
    assert match(found) == 0


def test_what_moves_to_disk_is_found_as_before_and_goes_once() -> None:
    moved = msgspec.structs.replace(stored("x", 20), tier="disk")
    found = pools(stored("x", 20), moved, moved)
    assert match(found) == 20
    assert [part.tier for part in found.whole(KNOWN, salt=None, adapter=None)[HOLDER]] == ["disk"]
    found.take("west", Evicted("x", 0, 1))
    assert match(found) == 0


def on_disk(news: Stored) -> Stored:
    return msgspec.structs.replace(news, tier="disk")


def tiers(found: Pools, tokens: list[int] = TOKENS) -> tuple[int, int]:
    """Of the prompt: tokens that there are, and of these those on disk alone."""
    held = found.match(PromptKeys(tokens, salt=None, adapter=None))
    found.index.check_integrity()
    return held.tokens.get(HOLDER, 0), held.on_disk.get(HOLDER, 0)


@pytest.mark.parametrize("stands_at", [None, True])
def test_what_of_a_prompt_lies_on_disk_alone_is_known(stands_at: bool | None) -> None:
    first = stored("first", 8, stands_at=stands_at and 8)
    second = stored("second", 20, start=8, stands_at=stands_at and 20)
    found = pools(first, second)
    assert tiers(found) == (20, 0)
    found.take("west", on_disk(second))  # memory evicts the end first
    assert tiers(found) == (20, 12)
    assert tiers(found, TOKENS[:9]) == (8, 0)
    found.take("west", on_disk(first))
    assert tiers(found) == (20, 20)
    found.take("west", first)
    assert tiers(found) == (20, 12)
    found.take("west", second)
    assert tiers(found) == (20, 0)
    found.take("west", on_disk(first))  # what is in memory behind it serves nobody
    assert tiers(found) == (20, 20)
    found.take("west", Evicted("second", 0, 1))
    assert tiers(found) == (8, 8)
    found.lost("west")
    assert tiers(found) == (0, 0)
    found.take("west", on_disk(first))
    assert tiers(found) == (8, 8)


def in_turn(count: int, tokens: int) -> list[Stored]:
    """Parts that follow each other, so long each."""
    ends = [number * tokens for number in range(1, count + 1)]
    return [stored(f"{end}", end, start=end - tokens) for end in ends]


def test_of_much_that_lies_in_memory_some_is_taken_up_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When the first of it moves to disk; until all is, nothing is said to lie there."""
    monkeypatch.setattr(holdings, "_AT_ONCE", 1)
    turns = in_turn(5, 4)
    found = pools(*turns)
    found.take("west", on_disk(turns[4]))  # and the first is taken up
    assert tiers(found) == (20, 0)
    found.take("west", on_disk(turns[1]))  # the third
    found.take("west", turns[1])  # the fourth
    assert tiers(found) == (20, 4)
    found.take("west", Evicted("20", 0, 1))
    assert tiers(found) == (16, 0)
    found.take("west", on_disk(turns[0]))
    assert tiers(found) == (16, 16)
    found.take("west", turns[0])
    assert tiers(found) == (16, 0)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["memory", "disk", "gone"])), max_size=20)
)
def test_in_the_end_it_does_not_matter_how_much_is_taken_up_at_a_time(
    moves: list[tuple[int, str]],
) -> None:
    turns = in_turn(5, 4)
    known = []
    for at_once in (1, 1000):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(holdings, "_AT_ONCE", at_once)
            patched.setattr(holdings, "_PIECE", at_once)
            found = pools(*turns)
            for number, where in moves:
                turn = turns[number]
                gone = Evicted(turn.transfer_id, 0, 1)
                told = msgspec.structs.replace(turn, tier=where)
                found.take("west", gone if where == "gone" else told)
            for _ in turns:
                found.take("west", Alive())
        known.append(tiers(found))
    assert known[0] == known[1]


def long_part(name: str, blocks: int) -> Stored:
    tokens = [*range(1000, 1000 + BLOCK * blocks)]
    return stored(name, len(tokens), tokens=tokens)


async def test_a_part_of_many_blocks_is_taken_and_dropped_in_pieces() -> None:
    """An agent may tell of one that has as many as a line has room for."""
    part = long_part("x", 6000)
    found, held, told = Pools(KEY, max_blocks=10_000, most_holders=4), [0], asyncio.Event()

    async def news() -> AsyncGenerator[CacheNews, None]:
        yield KeyedWith(key_id(KEY))
        yield part
        yield on_disk(part)  # of what lies in memory, nothing was taken up yet
        yield part
        yield on_disk(part)
        yield Evicted("x", 0, 1)
        told.set()
        await asyncio.Event().wait()

    agent = types.SimpleNamespace(name="west", cache_news=news)
    watching = asyncio.create_task(pool_module.watch_cache(cast(AgentClient, agent), found))
    while not told.is_set() and not watching.done():
        await asyncio.sleep(0)
        every = found._holdings.values()
        holders = [holder for one in every for holder in (one._anywhere, one._memory) if holder]
        held.append(sum(holder._index.blocks for holder in holders))
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert max(held) > 11_000
    assert held[-1] == 0
    assert max(abs(after - before) for before, after in pairwise(held)) <= 2048
    found.index.check_integrity()


def test_what_is_given_up_between_two_pieces_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(holdings, "_PIECE", 2)
    for news in (stored("x", 20), on_disk(stored("x", 20)), Evicted("x", 0, 1)):
        for pauses in range(1, 4):
            found = pools(stored("y", 12))
            if not isinstance(news, Stored):
                found.take("west", stored("x", 20))
            for _ in zip(range(pauses), found.steps("west", news), strict=False):
                pass
            found.lost("west")
            assert match(found) == 0
            found.take("west", stored("x", 20))
            assert match(found) == 20
            found.take("west", Evicted("x", 0, 1))
            assert match(found) == 0


def test_what_goes_before_it_is_taken_up_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(holdings, "_AT_ONCE", 1)
    first, second, third = in_turn(3, 8)
    found = pools(first, second, third)
    found.take("west", on_disk(first))  # and the second is taken up
    found.take("west", Evicted("24", 0, 1))
    assert tiers(found) == (16, 16), "memory has no beginning"
    found.take("west", first)
    assert tiers(found) == (16, 0)
    found.lost("west")
    assert tiers(found) == (0, 0)


def test_what_is_told_before_what_it_follows_is_found_all_the_same() -> None:
    """As an agent that begins finds its files: what was used least recently first."""
    turns = [stored("a", 8), stored("b", 20, start=8), stored("c", 28, start=20)]
    found = pools(*(on_disk(turn) for turn in reversed(turns)))
    assert tiers(found) == (28, 28)
    for turn in reversed(turns):  # and read back in that order
        found.take("west", turn)
    assert tiers(found) == (28, 0)
    found = pools(turns[2], turns[1])
    found.take("west", Evicted("b", 0, 1))
    found.take("west", turns[0])
    assert tiers(found) == (8, 0)


def test_an_agent_says_how_fast_its_disk_is() -> None:
    found = pools()
    for rate in (None, 2e9, None, -1.0, 1e-300):
        found.take("west", Alive(rate))
    assert found.disk_rates == {"west": 2e9}


def test_a_lost_agent_holds_nothing_and_begins_anew() -> None:
    found = pools(stored("x", 20))
    found.lost("west")
    assert match(found) == 0
    assert found.entries() == {"west": 0}
    found.take("west", stored("x", 20))
    assert match(found) == 20


def test_there_are_no_more_holders_than_there_can_be() -> None:
    found = pools(*(stored("x", 20, layout=str(number)) for number in range(9)))
    assert len(found.match(PromptKeys(TOKENS)).tokens) == 4


def endpoint(name: str, agent: str) -> EngineEndpoint:
    return EngineEndpoint(
        name=name, cluster="c", machine=agent, agent=agent, role="decode", url="",
        kv_events=None, kv_events_replay=None,
    )  # fmt: skip


def test_engines_load_what_their_agent_has_in_their_layout_where_it_is_more_than_they_hold() -> (
    None
):
    engines = {
        name: endpoint(name, agent)
        for name, agent in (
            ("has less", "west"),
            ("has more", "west"),
            ("other layout", "west"),
            ("unregistered", "west"),
            ("elsewhere", "east"),
        )
    }
    own = Matches({"has less": 12, "has more": 24, "elsewhere": 8}, {"has less": 4, "elsewhere": 4})
    layouts = {"has less": "layout", "has more": "layout", "other layout": "other"}
    found = with_pools(own, Held({HOLDER: 20}), engines, layouts.get)
    assert found.cached == {"has less": 20, "has more": 24, "elsewhere": 8}
    assert found.resumable == {"elsewhere": 4}
    assert found.pool == {"has less": 20}
    assert with_pools(own, Held(), engines, layouts.get) is own


def path(found: Pools, to_token: int, *, start: int = 0, salt: str | None = None) -> list[str]:
    parts = found.path(HOLDER, KNOWN, salt=salt, adapter=None, from_token=start, to_token=to_token)
    return [news.transfer_id for news in parts]


def test_parts_that_lead_to_a_prefix_are_found_the_last_first() -> None:
    turns = [
        stored("first", 8, stands_at=8),
        stored("second", 20, start=8, stands_at=20),
        stored("other", 20, stands_at=20, tokens=[*TOKENS[:8], *range(500, 520)]),
        stored("salted", 20, stands_at=20, salt="s"),
    ]
    found = pools(*turns)
    assert path(found, 20) == ["second", "first"]
    assert path(found, 20, start=8) == ["second"]
    assert path(found, 8) == ["first"]
    assert path(found, 12) == []  # no state stands there
    assert path(found, 20, salt="s") == ["salted"]
    found.take("west", Evicted("first", 0, 1))
    assert path(found, 20) == []
    blocks = pools(stored("first", 20), stored("rest", 32, start=8))
    assert path(blocks, 16) == ["first"]
    assert path(blocks, 32) == ["rest", "first"]
    assert blocks.path(
        Holder("elsewhere", "layout"), KNOWN, salt=None, adapter=None, from_token=0, to_token=8
    ) == []  # fmt: skip


def test_parts_of_other_prompts_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    others = (stored(f"other {n}", 8, tokens=[1000 + n] * 8) for n in range(200))
    found = pools(stored("first", 8), *others, stored("second", 20, start=8))
    looks = 0

    def counted(prefix: Prefix) -> Keys | None:
        nonlocal looks
        looks += 1
        return keys_of(prefix)

    for module in (part_ends, holdings):
        monkeypatch.setattr(module, "keys_of", counted)
    assert path(found, 20) == ["second", "first"]
    whole = found.whole(KNOWN, salt=None, adapter=None)[HOLDER]
    assert [news.transfer_id for news in whole] == ["second", "first"]
    assert looks == 0


def test_what_is_told_again_of_another_prefix_is_found_there_alone() -> None:
    found = pools(stored("x", 20), stored("x", 8))
    assert path(found, 20) == []
    assert path(found, 8) == ["x"]
    found.lost("west")
    assert path(found, 8) == []


def test_what_is_told_again_otherwise_leaves_nothing_behind() -> None:
    """Or one name would fill the index that all agents share."""
    found = pools()
    for number in range(50):
        tokens = [number, *TOKENS[1:]]
        found.take("west", stored("x", 20, tokens=tokens, stands_at=20))
        found.take("west", stored("x", 8, tokens=tokens, stands_at=8))
        assert match(found, tokens) == 8
        found.take("west", Evicted("x", 0, 1))
        assert match(found, tokens) == 0
    assert found.index.blocks == 0
    assert not found._holdings[HOLDER]._anywhere._blocks


def test_no_prompt_is_asked_of_blocks_of_many_sizes(caplog: pytest.LogCaptureFixture) -> None:
    """What each size costs, a prompt of the largest pays."""
    found = pools()
    for size in range(100, 120):
        prefix = Prefix(size, 0, bytes(16), (size.to_bytes(16, "big"),), bytes(16))
        found.take("west", Stored(f"x{size}", 0, 1, "layout", prefix))
    assert found.entries()["west"] == 4
    assert "agent west tells of more cached prefixes than are kept" in caplog.text
    found.lost("west")
    found.take("west", stored("x", 20))
    assert match(found) == 20


@pytest.mark.parametrize(
    "other",
    [
        {"transfer_id": "x" * 65},
        {"transfer_id": "x\n"},
        {"layout": "x" * 129},
        {"rank": 1024},
        {"epoch": 10**400},
        {"stands_at": -1},
        {"tier": "x" * 17},
        {"prefix": {"block_tokens": 4, "from_token": 10**400, "parent": "", "digests": []}},
    ],
)
def test_news_that_make_no_sense_are_none(other: dict[str, object]) -> None:
    """Whoever keeps millions of them keeps no more than their names."""
    said = msgspec.to_builtins(stored("x", 20)) | {"type": "stored"}
    assert msgspec.convert(said, CacheNews) == stored("x", 20)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(said | other, CacheNews)


def test_one_agent_does_not_fill_what_there_is_for_all(caplog: pytest.LogCaptureFixture) -> None:
    found = Pools(KEY, max_blocks=30, most_holders=64)
    for number in range(100):
        found.take("west", stored("x", 20, layout=f"layout {number}"))
    assert "agent west tells of more cached prefixes than are kept" in caplog.text
    for number in range(100):
        found.take("west", stored(f"x{number}", 20, layout="layout 1"))
    assert found.entries()["west"] <= 10
    found.take("east", stored("y", 20, layout="layout"))
    assert found.entries()["east"] == 1
    found.lost("west")
    assert found.entries()["west"] == 0
    found.take("west", stored("x", 20, layout="layout 1"))
    assert found.entries()["west"] == 1
    for _ in range(100):
        found.take("west", stored("x", 20, layout="layout 1"))
        found.take("west", Evicted("x", 0, 1))
    found.take("west", stored("x", 20, layout="layout 1"))
    assert found.entries()["west"] == 1


def test_a_prompt_of_which_an_agent_tells_thousands_of_parts_is_looked_up_once() -> None:
    """Each leads to a part that leads nowhere: none is a way from the prompt's beginning."""
    assert stored("all", 40).prefix.keys, "what comes behind it can be keyed now"
    lost = [stored(f"l{n}", 40, start=36) for n in range(500)]
    led = [stored(f"m{n}", 36, start=n % 8 * 4 + 4) for n in range(500)]
    looked: list[Prefix] = []
    leads = pool_module._leads_to

    def counted(before: Prefix, after: Prefix) -> bool:
        looked.append(after)
        return leads(before, after)

    found = Pools(KEY, max_blocks=100_000, most_holders=4)
    for news in (*led, *lost):
        found.take("west", news)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool_module, "_leads_to", counted)
        path = {"salt": None, "adapter": None, "from_token": 0, "to_token": 40}
        assert found.path(HOLDER, KNOWN, **path) == []  # type: ignore[arg-type]
        assert 0 < len(looked) < 100
        found.take("west", stored("first", 20))
        whole = found.path(HOLDER, KNOWN, **path)  # type: ignore[arg-type]
    assert whole[-1].transfer_id == "first"
