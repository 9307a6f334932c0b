"""Two tensor-parallel ranks in each engine: every rank hands its part over to its counterpart.

vLLM's ranks on the CPU wait for each other spinning. Six of them on two cores now and then stand in
each other's way for minutes: not part of `make test`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from prfaas.testing.comparing import complete
from prfaas.testing.running import PlainEngine, RunningDeployment, call

pytestmark = [pytest.mark.engine, pytest.mark.ranks]

DEPLOYMENT = Path(__file__).with_name("tensor-parallel.yaml")


class Pair(NamedTuple):
    running: RunningDeployment
    plain: PlainEngine


@pytest.fixture(scope="module")
def pair(stacks: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    stacks.close()  # Memory holds one deployment at a time.
    home = tmp_path_factory.mktemp("tensor-parallel")
    with (
        RunningDeployment(DEPLOYMENT, home / "up") as running,
        PlainEngine(
            running, home / "plain", cpus="0|1", args=("--tensor-parallel-size", "2")
        ) as plain,
    ):
        yield Pair(running, plain)


@pytest.mark.parametrize("length", [257, 2049, 5000])
def test_identical(pair: Pair, length: int) -> None:
    model = pair.running.deployment.model.served_name
    ids = random.Random(length).choices(range(300, 4000), k=length)
    ours, route = complete(pair.running.url, model, ids)
    stock, _ = complete(pair.plain.url, model, ids)
    assert route.startswith("offload"), route
    assert ours["token_ids"] == stock["token_ids"]
    assert ours["logprobs"]["token_logprobs"] == stock["logprobs"]["token_logprobs"]


def test_each_rank_is_registered_with_its_own_layout(pair: Pair) -> None:
    for cluster, engine in (("east", "east-prefill"), ("west", "west-decode")):
        ranks = call(f"{pair.running.admin(cluster)}/engines").json()["engines"]
        layouts = [rank["layout"] for rank in ranks]
        assert {rank["engine"] for rank in ranks} == {engine}
        assert sorted(layout["tp_rank"] for layout in layouts) == [0, 1]
        assert {layout["tp_size"] for layout in layouts} == {2}
