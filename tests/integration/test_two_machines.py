"""Real engines on two machines a cluster: hand-offs between machines change no bit of an answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from prfaas.testing.calling import call
from prfaas.testing.comparing import complete
from prfaas.testing.measuring import prompt
from prfaas.testing.running import PlainEngine, RunningDeployment

pytestmark = [pytest.mark.engine]

DEPLOYMENT = Path(__file__).with_name("two-machines.yaml")
OFFLOADED, LOCAL = (1300, 2049, 2500, 3000), (257, 700, 1000)


class Pair(NamedTuple):
    running: RunningDeployment
    plain: PlainEngine


@pytest.fixture(scope="module")
def pair(stacks: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    stacks.close()  # Memory holds one deployment at a time.
    home = tmp_path_factory.mktemp("two-machines")
    with (
        RunningDeployment(DEPLOYMENT, home / "up", model="tiny:gdn") as running,
        PlainEngine(running, home / "plain") as plain,
    ):
        yield Pair(running, plain)


def test_identical_whichever_machines_a_prompt_goes_through(pair: Pair) -> None:
    model = pair.running.deployment.model.served_name
    for length in (*OFFLOADED, *LOCAL):
        ids = prompt(f"machines {length}", length)
        ours, route = complete(pair.running.url, model, ids)
        stock, _ = complete(pair.plain.url, model, ids)
        assert route.startswith("offload" if length in OFFLOADED else "pd-p"), route
        assert ours["token_ids"] == stock["token_ids"]
        assert ours["logprobs"]["token_logprobs"] == stock["logprobs"]["token_logprobs"]


def test_every_machine_of_a_cluster_takes_its_share_over_its_own_link(pair: Pair) -> None:
    model = pair.running.deployment.model.served_name
    with ThreadPoolExecutor(4) as pool:
        asked = [
            pool.submit(complete, pair.running.url, model, prompt(f"many {number}", 1500))
            for number in range(6)
        ]
        assert all(future.result()[1].startswith("offload") for future in asked)
    sent: Counter[str] = Counter()
    for machine in ("east-1", "east-2", "west-1"):
        for link in call(f"{pair.running.admin(machine)}/links").json()["links"]:
            sent[f"{machine} to {link['peer']}"] = link["acknowledged_bytes_total"]
    to_the_decode_engine = {way: count for way, count in sent.items() if "west-2" in way}
    assert len(to_the_decode_engine) == 3
    assert min(to_the_decode_engine.values()) > 0, sent
