"""A trace through agents' caches: what is found where, and what it takes."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.planner.pools import KV, TEXT, site

from prfaas.core.errors import ConfigError
from prfaas.core.tiers import load_guess_s
from prfaas.models.profiles import load_profile
from prfaas.planner.demand import Decode
from prfaas.planner.pool_site import PoolSite
from prfaas.planner.pool_walk import Walk, Way, walk
from prfaas.workload.trace import RecordedTrace

PROFILES = {
    "east": load_profile("paper-1t-h200").prefill_or_refuse,
    "west": load_profile("paper-1t-h20-fit").prefill_or_refuse,
}
DECODE = Decode(20, 0.025)


def asked(*blocks: list[int], more: int = 1) -> RecordedTrace:
    """A request for each, ``more`` tokens longer than its blocks."""
    return RecordedTrace(
        arrivals=None,
        prompts=[len(own) * 512 + more for own in blocks],
        outputs=[100] * len(blocks),
        blocks=list(blocks),
    )


def walked(found: PoolSite, threshold: float = np.inf, *, n_p: int = 1, rate: float = 0.01) -> Walk:
    return walk(found, PROFILES, Way(threshold, n_p, DECODE, rate))


def shares(found: Walk, number: int) -> dict[str, float]:
    return {tier: float(tokens[number]) for tier, tokens in found.found.items() if tokens[number]}


def test_the_next_turn_goes_on_from_the_last_prompt() -> None:
    first, second = list(range(20)), list(range(30))
    found = walked(site(asked(first, second)))
    assert shares(found, 0) == {}
    assert shares(found, 1) == {"memory": 20 * 512}
    assert found.uncached.tolist() == [20 * 512 + 1, 10 * 512 + 1]
    load_s = load_guess_s("memory", KV.bytes(20 * 512))
    assert found.fetch_s.tolist() == [0.0, pytest.approx(load_s)]
    assert found.pd_s[1] == pytest.approx(load_s + PROFILES["west"].seconds(10 * 512 + 1))
    assert not found.pulled_bytes.any()


def test_states_lie_at_ends_of_prompts_alone_and_attention_everywhere() -> None:
    system = list(range(8))
    trace = asked([*system, *range(100, 110)], [*system, *range(200, 210)])
    assert shares(walked(site(trace)), 1) == {}
    without = site(trace, kv=type(KV)(0, KV.bytes_per_token))
    assert shares(walked(without), 1) == {"memory": 8 * 512}


def test_what_memory_evicts_comes_from_disk_and_without_one_from_nowhere() -> None:
    """8 GiB are some 20 prompts."""
    trace = asked(*(list(range(100 * n, 100 * n + 40)) for n in range(30)), list(range(50)))
    assert shares(walked(site(trace)), 30) == {"disk": 40 * 512}
    text = TEXT.replace(", disk: 100 GB", "")
    assert shares(walked(site(trace, text)), 30) == {}


def test_long_prompts_are_offloaded_and_what_the_decode_engine_holds_is_not_sent() -> None:
    trace = asked(list(range(20)), list(range(120)))
    found = walked(site(trace), threshold=15_000)
    assert found.offloaded.tolist() == [False, True]
    assert shares(found, 1) == {}  # That cluster has computed nothing yet.
    assert found.prfaas_s[1] == PROFILES["east"].seconds(120 * 512 + 1)
    assert found.sent_bytes[1] == KV.bytes(100 * 512 + 1)


def test_who_lacks_it_pulls_it_from_another_machine() -> None:
    """The first engine is busy when the second prompt comes."""
    trace = asked(list(range(20)), list(range(500, 620)), list(range(40)))
    found = walked(site(trace), n_p=2, rate=50.0)
    assert shares(found, 2) in ({"lan": 20 * 512}, {"memory": 20 * 512})
    busy = asked(list(range(20)), list(range(30)), list(range(20, 40)), list(range(40)))
    assert sum(walked(site(busy), n_p=2, rate=50.0).found["lan"]) > 0


def test_without_a_network_nothing_is_pulled() -> None:
    text = TEXT.replace("lan: {rate: 100 Gbps}", "lan: {rate: 1 kbit/s}")
    busy = asked(list(range(20)), list(range(30)), list(range(20, 40)), list(range(40)))
    assert sum(walked(site(busy, text), n_p=2, rate=50.0).found["lan"]) == 0


def test_what_decode_engines_compute_is_found_where_answers_are_kept() -> None:
    trace = asked(list(range(20)), list(range(30)))
    assert shares(walked(site(trace), n_p=0), 1) == {}
    text = TEXT.replace("memory: 8 GiB", "memory: 8 GiB, answers: true")
    found = walked(site(trace, text), n_p=0)
    assert shares(found, 1) == {"memory": 20 * 512}
    assert found.pd_s[1] == pytest.approx(
        load_guess_s("memory", KV.bytes(20 * 512)) + PROFILES["west"].seconds(10 * 512 + 1)
    )


def test_without_pd_engines_that_prefill_everything_is_offloaded() -> None:
    found = walked(site(asked(list(range(20)), list(range(30)))), threshold=-1.0, n_p=0)
    assert found.offloaded.all()


def test_a_prompt_beyond_a_profile_is_refused() -> None:
    with pytest.raises(ConfigError, match="131072"):
        walked(site(asked(list(range(300)))))


def test_it_says_how_far_it_is() -> None:
    steps: list[str] = []
    trace = asked(*([n] for n in range(4100)))
    walk(site(trace), PROFILES, Way(np.inf, 1, DECODE, 1.0), on_step=steps.append)
    assert steps == ["request 0 of 4,100", "request 4,096 of 4,100"]
