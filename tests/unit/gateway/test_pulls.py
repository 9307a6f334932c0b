"""What is worth pulling, and that a pull goes well or costs nothing but its time."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, cast

import pytest
from tests.unit.gateway.test_pools import KEY, TOKENS, stored

from prfaas.core.cache_copies import AwaitCopy, CopyCached
from prfaas.core.deployment import parse_deployment
from prfaas.core.errors import LinkError
from prfaas.core.tiers import load_guess_s
from prfaas.gateway.agent_client import TransferStatus
from prfaas.gateway.endpoints import Endpoints, resolve
from prfaas.gateway.facts import RequestFacts
from prfaas.gateway.load_costs import Load, LoadCosts
from prfaas.gateway.pools import Held, Holder, Pools, Pull
from prfaas.gateway.prefix_matches import Matches, with_pools
from prfaas.gateway.pulls import PromptToPull, PullCosts, Puller
from prfaas.index.keyed_blocks import key_id
from prfaas.index.keys import KnownTokens
from prfaas.policies.costs import ProfileCosts
from prfaas.policies.fading_line import Sums
from prfaas.policies.learned_fetches import (
    LearnedFetches,
    load_way,
    pull_way,
)
from prfaas.scheduler.fleet import FleetState
from prfaas.scheduler.journal import CostInputs
from prfaas.scheduler.topology import ClusterSpec, EngineSpec, LinkSpec, Topology
from prfaas.testing.mock_deployment import until

FILE = """
clusters:
  - {name: east, kind: prfaas, engines: [{name: e0, role: prefill, url: "http://h:1"}],
     agent: {name: east-agent, admin: "h:11", listen: "h:21", plaintext: true}}
  - name: west
    kind: pd
    machines:
      - {name: w1, engines: [{name: d1, role: decode, url: "http://h:2"}],
         agent: {name: w1-agent, admin: "h:12", listen: "h:22", plaintext: true}}
      - {name: w2, engines: [{name: d2, role: decode, url: "http://h:3"}],
         agent: {name: w2-agent, admin: "h:13", listen: "h:23", plaintext: true}}
links: [{from: east, to: west, rate: 80 Mbit/s}]
"""
EAST, W1, W2 = Holder("east-agent", "l"), Holder("w1-agent", "l"), Holder("w2-agent", "l")
PROMPT = PromptToPull(4000, None, None)
LOAD_S = load_guess_s("memory", 3200 * 1000.0)


def endpoints() -> Endpoints:
    return resolve(parse_deployment(FILE, source="test"), source="test")


def costs(
    *,
    lan: float = 1e8,
    line: float = 1e7,
    kv_per_token: float = 1000.0,
    fetches: dict[str, Sums] | None = None,
    disk: dict[str, float] | None = None,
) -> PullCosts:
    """Prefill takes 1 ms a token, lines and disks what they are given (bytes a second)."""
    topology = Topology(
        (ClusterSpec("east", "prfaas"), ClusterSpec("west", "pd")),
        (
            EngineSpec("e0", "east", "prefill"),
            EngineSpec("d1", "west", "decode", 4, machine="w1"),
            EngineSpec("d2", "west", "decode", 4, machine="w2"),
        ),
        (LinkSpec("east", "west", line, 0.02), LinkSpec("west", "west", lan, 0.0)),
        16,
    )
    prefills = {name: lambda tokens: tokens / 1000.0 for name in ("e0", "d1", "d2")}
    view = FleetState(topology, ProfileCosts(prefills, lambda tokens: kv_per_token * tokens))
    begun = CostInputs(fetches=fetches or {})
    return PullCosts(endpoints(), view, LoadCosts(endpoints(), view, begun, disk or {}))


def test_the_nearer_of_two_is_pulled_from() -> None:
    pull = costs().best(PROMPT, "d2", "l", 0, pools=Held({EAST: 3200, W1: 3200}))
    assert pull is not None
    assert (pull.source, pull.target, pull.from_token, pull.to_token) == (W1, "w2-agent", 0, 3200)
    assert pull.seconds == pytest.approx(0.032 + LOAD_S)


def test_the_longer_prefix_is_pulled_where_that_spares_more() -> None:
    pull = costs().best(PROMPT, "d2", "l", 0, pools=Held({EAST: 3200, W1: 320}))
    assert pull is not None
    assert pull.source == EAST
    assert pull.seconds == pytest.approx(0.32 + 0.03 + LOAD_S)


@pytest.mark.parametrize(
    ("pools", "made"),
    [
        ({W1: 3200}, {"lan": 1e6}),  # the network is no faster than the prefill
        ({Holder("w1-agent", "other"): 3200}, {}),  # another layout, model or dtype
        ({W2: 3200}, {}),  # its own agent's: nothing to pull
        ({W1: 1000}, {}),  # no more than it has
        ({Holder("unknown", "l"): 3200}, {}),  # no line from there
    ],
)
def test_what_is_not_worth_it_is_computed(pools: dict[Holder, int], made: dict[str, Any]) -> None:
    own = 1600 if pools.get(W1) == 1000 else 0
    assert costs(**made).best(PROMPT, "d2", "l", own, pools=Held(pools)) is None


def test_a_prefill_cluster_pulls_nothing_against_the_lines_direction() -> None:
    assert costs().best(PROMPT, "e0", "l", 0, pools=Held({W1: 3200})) is None


def test_matches_count_what_is_to_be_pulled() -> None:
    best = costs().best

    def pull(engine: str, layout: str, own: int) -> Pull | None:
        return best(PROMPT, engine, layout, own, pools=found)

    found = Held({W1: 3200})
    matches = with_pools(
        Matches({"d2": 160}, {"d2": 80}), found, endpoints().engines, lambda _: "l", pull
    )
    assert matches.cached == {"d1": 3200, "d2": 3200}
    assert matches.pool == {"d1": 3200}
    assert list(matches.pulls) == ["d2"]
    assert matches.pulls["d2"].from_token == 80  # of a state it can go on from by itself
    assert matches.resumable == {}
    assert matches.fetch_s["d2"] == matches.pulls["d2"].seconds > LOAD_S


def test_a_pair_that_was_slow_is_not_pulled_from_until_that_is_long_ago() -> None:
    way = pull_way("w1-agent", "w2-agent")
    slow = LearnedFetches()
    for _ in range(10):
        slow.seen(way, 0.032, 5.0)  # more than the 3.2 s that computing takes
    pulls = costs(fetches=slow.learned())
    assert pulls.best(PROMPT, "d2", "l", 0, pools=Held({W1: 3200})) is None
    found = [pulls.best(PROMPT, "d2", "l", 0, pools=Held({W1: 3200})) for _ in range(200)]
    assert found[0] is None
    assert found[-1] is not None


def test_a_load_that_takes_longer_than_computing_is_not_made() -> None:
    slow = LearnedFetches()
    for _ in range(10):
        slow.seen(load_way("d2", "memory"), LOAD_S, 5.0)
    loads = costs(fetches=slow.learned())._loads
    assert loads.best(4000, "d2", 0, Load(3200)) is None
    assert loads.best(4000, "d1", 0, Load(3200)) == Load(3200, 0, pytest.approx(LOAD_S))
    matches = with_pools(
        Matches({}, {}), Held({W1: 3200, W2: 3200}), endpoints().engines, lambda _: "l",
        load=partial(loads.best, 4000),
    )  # fmt: skip
    assert matches.cached == {"d1": 3200}
    assert matches.at_agent == {"d1": 3200}
    assert matches.fetch_s == {"d1": pytest.approx(LOAD_S)}


def test_what_a_prefill_took_beyond_computing_was_the_load() -> None:
    loads = costs()._loads
    facts = RequestFacts(request_id="r", endpoint="chat", arrived_at=0.0, total_tokens=4000)
    facts.pool = facts.at_agent = {"e0": 3200}
    facts.prefill_engine, facts.prefill_cached_tokens, facts.prefilled_s = "e0", 3200, 2.0
    for _ in range(20):
        loads.begins(facts, "e0", 0.7)
        loads.ended(facts)  # 1.3 s, of which 0.8 s were for the rest
    assert loads.load_s("e0", 3200) == pytest.approx(0.5, rel=0.1)
    assert loads.load_s("d1", 3200) == pytest.approx(0.5, rel=0.1)


WHOLE = Load(3200, 1600)
"""Of a prompt of 4,000 tokens, half of it on disk."""


def test_a_disk_has_a_price_of_its_own() -> None:
    """3.2 MB, half of it on disk: what memory has is loaded where the disk takes longer than to
    compute the rest (1.6 s)."""
    fast, slow = (costs(disk={"w1-agent": rate})._loads for rate in (16e6, 0.5e6))
    assert fast.best(4000, "d1", 0, WHOLE) == WHOLE._replace(
        seconds=pytest.approx(LOAD_S + load_guess_s("disk", 1.6e6, 16e6))
    )
    half = slow.best(4000, "d1", 0, WHOLE)
    assert half == Load(1600, 0, pytest.approx(load_guess_s("memory", 1.6e6)))
    assert slow.best(4000, "d1", 1600, WHOLE) is None
    assert slow.best(4000, "d1", 0, Load(3200, 3200)) is None
    matches = with_pools(
        Matches({}, {}), Held({W1: 3200, W2: 3200}, {W1: 1600, W2: 3200}), endpoints().engines,
        lambda _: "l", load=partial(slow.best, 4000),
    )  # fmt: skip
    assert matches.at_agent == {"d1": 1600, "d2": 3200}, "the other one's disk is as usual"
    assert matches.from_disk == {"d1": 0, "d2": 3200}
    usual = costs()._loads
    for on_disk in ({W1: 3200}, {W2: 3200}):
        took = with_pools(
            Matches({}, {}), Held({W1: 3200, W2: 3200}, on_disk), endpoints().engines,
            lambda _: "l", load=partial(usual.best, 4000),
        ).fetch_s  # fmt: skip
        assert max(took, key=took.__getitem__) == ("d1" if W1 in on_disk else "d2")


def test_what_a_disk_takes_is_learned_by_agent_beside_what_memory_takes() -> None:
    loads = costs()._loads
    facts = RequestFacts(request_id="r", endpoint="chat", arrived_at=0.0, total_tokens=4000)
    facts.pool = facts.at_agent = {"e0": 3200}
    facts.prefill_engine, facts.prefill_cached_tokens, facts.prefilled_s = "e0", 3200, 2.0
    for _ in range(30):
        loads.begins(facts, "e0", 1.1)
        facts.from_disk = {}
        loads.ended(facts)  # 0.1 s
        loads.begins(facts, "e0", 0.6)
        facts.from_disk = {"e0": 1600}
        loads.ended(facts)  # 0.5 s more
    assert loads.load_s("e0", 3200) == pytest.approx(0.1, rel=0.1)
    assert loads.disk_s("east-agent", 3200, 1600) == pytest.approx(0.5, rel=0.1)
    assert loads.disk_s("east-agent", 3200, 0) == 0.0
    assert loads.disk_s("w1-agent", 3200, 1600) == pytest.approx(0.5, rel=0.1)
    again = costs(fetches=loads.fetches.learned())._loads
    assert again.disk_s("east-agent", 3200, 1600) == pytest.approx(0.5, rel=0.1)


def test_a_disk_that_was_slow_is_tried_again_when_that_is_long_ago() -> None:
    slow = LearnedFetches()
    for _ in range(10):
        slow.seen(load_way("w1-agent", "disk"), 0.1, 5.0)
    loads = costs(fetches=slow.learned())._loads
    found = [loads.best(4000, "d1", 0, WHOLE) for _ in range(200)]
    assert found[0] is not None
    assert found[0].tokens == 1600
    assert found[-1] == WHOLE._replace(seconds=pytest.approx(found[-1].seconds))  # type: ignore[union-attr]


def test_a_pull_from_disk_costs_what_its_disk_takes_beside_the_line() -> None:
    pools = Held({W1: 3200, EAST: 3200}, {W1: 3200})
    quick = costs(disk={"w1-agent": 1e9}).best(PROMPT, "d2", "l", 0, pools=pools)
    assert quick is not None
    assert (quick.source, quick.disk_s) == (W1, pytest.approx(load_guess_s("disk", 3.2e6, 1e9)))
    assert quick.seconds == pytest.approx(0.032 + LOAD_S + quick.disk_s)
    other = costs(disk={"w1-agent": 1e6}).best(PROMPT, "d2", "l", 0, pools=pools)
    assert other is not None
    assert (other.source, other.disk_s) == (EAST, 0.0)


class Agent:
    """Of two that copy: what it was asked, and what becomes of it."""

    def __init__(self, *, state: str = "complete", refuses: bool = False) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.key_ids: set[str] = set()
        self.state, self.refuses = state, refuses
        self.gate = asyncio.Event()
        self.gate.set()

    async def await_copy(self, copy_id: str, awaited: AwaitCopy) -> None:
        self.asked.append(("await", awaited.prefix))
        self.key_ids.add(awaited.key_id)

    async def send_copy(self, copy_id: str, wanted: CopyCached) -> None:
        if self.refuses:
            raise LinkError("it is not cached any more")
        self.asked.append(("send", wanted.transfer_id))

    async def transfer(self, copy_id: str, *, wait_s: float, ranks: int) -> TransferStatus:
        await self.gate.wait()
        return TransferStatus(cast("Any", self.state))

    async def drop(self, copy_id: str) -> None:
        self.asked.append(("drop", copy_id))


class Stage:
    def __init__(self, sender: Agent | None = None, receiver: Agent | None = None) -> None:
        self.sender, self.receiver = sender or Agent(), receiver or Agent()
        pools = Pools(KEY, max_blocks=1000, most_holders=4)
        self.first = stored("first", 8, stands_at=8)
        self.second = stored("second", 20, start=8, stands_at=20)
        for news in (self.first, self.second):
            pools.take("west", news)
        names = iter(range(100))
        self.fetches = LearnedFetches()
        self.puller = Puller(
            pools,
            cast("Any", {"west": self.sender, "there": self.receiver}),
            new_id=lambda: f"copy-{next(names)}",
            fetches=self.fetches,
        )
        self.wanted = Pull(Holder("west", "layout"), "there", 0, 20, 0.1)

    async def pull(self, within_s: float = 30.0) -> bool:
        return await self.puller.pull(self.wanted, KnownTokens(TOKENS), ranks=1, within_s=within_s)


async def test_every_part_is_copied_with_what_it_is_of() -> None:
    stage = Stage()
    assert await stage.pull()
    assert sorted(what for _, what in stage.sender.asked) == ["first", "second"]
    told = [prefix for _, prefix in stage.receiver.asked]
    assert {p.from_token for p in told} == {0, 8}
    assert stage.puller.made == 1
    assert list(stage.fetches.learned()) == [pull_way("west", "there")]


async def test_what_two_want_at_a_time_is_copied_once() -> None:
    stage = Stage()
    stage.receiver.gate.clear()
    both = [asyncio.create_task(stage.pull()) for _ in range(2)]
    await until(lambda: len(stage.sender.asked) == 2)
    stage.receiver.gate.set()
    assert await asyncio.gather(*both) == [True, True]
    assert len(stage.sender.asked) == 2


@pytest.mark.parametrize("sender", [Agent(refuses=True), None])
async def test_what_goes_wrong_is_no_pull_and_is_dropped_on_both_sides(
    sender: Agent | None,
) -> None:
    stage = Stage(sender, Agent(state="failed"))
    assert not await stage.pull()
    await until(lambda: "drop" in [what for what, _ in stage.receiver.asked])
    assert stage.puller.failed == 1


async def test_one_that_takes_too_long_is_given_up() -> None:
    stage = Stage()
    stage.receiver.gate.clear()
    assert not await stage.pull(within_s=0.01)
    assert not await stage.pull(within_s=0.0)
    await stage.puller.close()


async def test_what_is_gone_meanwhile_is_not_asked_for() -> None:
    stage = Stage()
    stage.puller._pools.lost("west")
    assert not await stage.pull()
    assert stage.sender.asked == []


async def test_a_pull_says_which_key_its_names_are_of_however_late_it_is_asked_for() -> None:
    stage = Stage()
    pulled = asyncio.create_task(stage.pull())
    await asyncio.sleep(0)
    assert stage.puller._under_way
    assert not stage.receiver.asked
    stage.puller._pools.rekey(b"another cache key")
    assert await pulled
    assert stage.receiver.key_ids == {key_id(KEY)}
    assert not await stage.pull(), "nothing is known under the other one"
