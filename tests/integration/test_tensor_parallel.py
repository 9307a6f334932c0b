"""Engines of one rank and of two hand over to each other.

Equal engines exchange pages as they are, rank by rank. Of unequal ones, each of the receiver's
ranks takes its heads, states and channels out of what the sender's sent. A sum over more ranks is
rounded otherwise: tokens may then differ from a stock engine's where its best two nearly tie.

vLLM's ranks on the CPU wait for each other spinning. Six of them on two cores now and then stand in
each other's way for minutes: not part of `make test`.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from string import Template
from typing import NamedTuple

import pytest

from prfaas.models.geometry.models import geometry_of
from prfaas.testing.calling import call
from prfaas.testing.comparing import assert_same_or_near_tie, complete
from prfaas.testing.running import PlainEngine, RunningDeployment
from prfaas.tiny_models.kinds import CONFIGS

pytestmark = [pytest.mark.engine, pytest.mark.ranks, pytest.mark.alone]

DEPLOYMENT = Path(__file__).with_name("tensor-parallel.yaml")
BLOCK = 256
LENGTHS = [257, 2049, 5000]


class Pair(NamedTuple):
    prefill_ranks: int
    decode_ranks: int
    running: RunningDeployment
    plain: PlainEngine


def cpus(ranks: int) -> str:
    return "0|1" if ranks == 2 else "0"


def args(ranks: int) -> tuple[str, ...]:
    return ("--tensor-parallel-size", str(ranks))


@pytest.fixture(scope="module", params=[(2, 2), (1, 2), (2, 1)], ids=["2-2", "1-2", "2-1"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    home = tmp_path_factory.mktemp("tensor-parallel")
    p, d = request.param
    file = home / DEPLOYMENT.name
    file.write_text(
        Template(DEPLOYMENT.read_text()).substitute(
            prefill_cpus=cpus(p),
            prefill_args=json.dumps(args(p)),
            decode_cpus=cpus(d),
            decode_args=json.dumps(args(d)),
        )
    )
    with (
        RunningDeployment(file, home / "up") as running,
        PlainEngine(running, home / "plain", cpus=cpus(d), args=args(d)) as plain,
    ):
        yield Pair(p, d, running, plain)


def kv_bytes(pair: Pair, tokens: int) -> float:
    """S_kv of the model, whose states a CPU keeps in one format or another."""
    rank, *_ = call(f"{pair.running.admin('west')}/engines").json()["engines"]
    words = [layer["interior"] for group in rank["layout"]["groups"] for layer in group["layers"]]
    state_dtype = next(word for word in words if "GDN" in word).split()[-1]
    model = geometry_of(CONFIGS["gdn"], name="tiny", source="tests")
    return model.kv_size(state_dtype=state_dtype).bytes(tokens)


def sent_bytes(pair: Pair) -> float:
    page = call(f"{pair.running.admin('east')}/metrics").body.decode()
    return float(re.findall(r'exported_bytes_total\{path="link"\} (\S+)', page)[0])


@pytest.mark.parametrize("length", LENGTHS)
def test_identical(pair: Pair, length: int) -> None:
    model = pair.running.deployment.model.served_name
    ids = random.Random(length).choices(range(300, 4000), k=length)
    before = sent_bytes(pair)
    ours, route = complete(pair.running.url, model, ids)
    assert route.startswith("offload"), route
    boundary = (length - 1) // BLOCK * BLOCK
    assert sent_bytes(pair) - before == kv_bytes(pair, boundary)
    stock, _ = complete(pair.plain.url, model, ids)
    if pair.prefill_ranks == pair.decode_ranks:
        assert ours["token_ids"] == stock["token_ids"]
        assert ours["logprobs"]["token_logprobs"] == stock["logprobs"]["token_logprobs"]
    else:
        assert_same_or_near_tie(ours, stock)


def test_nothing_had_to_be_computed_again(pair: Pair) -> None:
    """A load that fails shows in no answer."""
    log = (pair.running.run_directory / "logs" / "west-decode.log").read_text(errors="replace")
    assert "recomputing" not in log
    page = call(f"{pair.running.admin('west')}/metrics").body.decode()
    counts = dict(re.findall(r'imports_total\{outcome="(\w+)"\} (\S+)', page))
    assert float(counts["failed"]) == 0
    assert float(counts["ready"]) >= len(LENGTHS)


def test_each_rank_is_registered_with_its_own_layout(pair: Pair) -> None:
    for cluster, engine, ranks in (
        ("east", "east-prefill", pair.prefill_ranks),
        ("west", "west-decode", pair.decode_ranks),
    ):
        entries = call(f"{pair.running.admin(cluster)}/engines").json()["engines"]
        layouts = [entry["layout"] for entry in entries]
        assert {entry["engine"] for entry in entries} == {engine}
        assert sorted(layout["tp_rank"] for layout in layouts) == list(range(ranks))
        assert {layout["tp_size"] for layout in layouts} == {ranks}
