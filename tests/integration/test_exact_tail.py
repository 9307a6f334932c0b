"""With large blocks a hand-off ends exactly before the last token, and the prefix stays reusable.

The decode engine then computes the last token alone, which no stock engine does: a token may differ
where the stock engine's best two nearly tie.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from prfaas.testing.calling import call
from prfaas.testing.comparing import assert_same_or_near_tie, complete, complete_both
from prfaas.testing.measuring import prompt
from prfaas.testing.running import PlainEngine, RunningDeployment, compared

BLOCK = 2048
FILE = Path(__file__).with_name("exact.yaml")

pytestmark = [pytest.mark.engine, pytest.mark.alone]


class Pair(NamedTuple):
    running: RunningDeployment
    plain: PlainEngine

    @property
    def model(self) -> str | None:
        return self.running.deployment.model.served_name

    def check(self, ids: list[int]) -> None:
        """Answered by offloading, and as a stock engine answers."""
        both = complete_both(self.running.url, self.plain.url, self.model, ids)
        (ours, route), (stock, _) = both
        assert route.startswith("offload"), route
        assert_same_or_near_tie(ours, stock)

    def decode_engine_counts(self, metric: str) -> float:
        text = call(f"{self.running.engine('west-decode').url}/metrics").body.decode()
        return sum(float(n) for n in re.findall(rf"^{metric}{{.*}} (\S+)$", text, re.MULTILINE))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with compared(FILE, tmp_path_factory.mktemp("exact"), model="tiny:gdn") as both:
        yield Pair(*both)


@pytest.mark.parametrize("length", [1500, 5000])
def test_the_decode_engine_computes_one_token(pair: Pair, length: int) -> None:
    """With 1,500 tokens nothing else could be handed over at all."""
    loaded = pair.decode_engine_counts("vllm:external_prefix_cache_hits_total")
    pair.check(prompt(f"exact {length}", length))
    after = pair.decode_engine_counts("vllm:external_prefix_cache_hits_total")
    assert after - loaded == length - 1


def test_the_next_turn_goes_on_from_the_last_blocks_end(pair: Pair) -> None:
    """The decode engine has the state there, though its own requests never passed it."""
    ids = prompt("exact turn", 2 * BLOCK + 900)
    pair.check(ids)
    hits = pair.decode_engine_counts("vllm:prefix_cache_hits_total")
    turn = [*ids, *prompt("exact turn more", 100)]
    decode = str(pair.running.engine("west-decode").url)
    ours, _ = complete(decode, pair.model, turn)
    assert pair.decode_engine_counts("vllm:prefix_cache_hits_total") - hits == 2 * BLOCK
    stock, _ = complete(pair.plain.url, pair.model, turn)
    assert_same_or_near_tie(ours, stock)


def test_a_short_tail_is_left_to_the_decode_engine(pair: Pair) -> None:
    loaded = pair.decode_engine_counts("vllm:external_prefix_cache_hits_total")
    pair.check(prompt("short tail", BLOCK + 100))
    after = pair.decode_engine_counts("vllm:external_prefix_cache_hits_total")
    assert after - loaded == BLOCK
