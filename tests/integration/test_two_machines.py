"""Real engines on two machines a cluster: hand-offs between machines change no bit of an answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from prfaas.testing.calling import call
from prfaas.testing.comparing import complete, complete_both
from prfaas.testing.measuring import prompt
from prfaas.testing.running import Compared, compared

pytestmark = [pytest.mark.engine, pytest.mark.alone]

DEPLOYMENT = Path(__file__).with_name("two-machines.yaml")
OFFLOADED, LOCAL = (1300, 2049, 2500, 3000), (257, 700, 1000)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compared]:
    with compared(DEPLOYMENT, tmp_path_factory.mktemp("two-machines"), model="tiny:gdn") as both:
        yield both


def test_identical_whichever_machines_a_prompt_goes_through(pair: Compared) -> None:
    model = pair.running.deployment.model.served_name
    for length in (*OFFLOADED, *LOCAL):
        ids = prompt(f"machines {length}", length)
        (ours, route), (stock, _) = complete_both(pair.running.url, pair.plain.url, model, ids)
        assert route.startswith("offload" if length in OFFLOADED else "pd-p"), route
        assert ours["token_ids"] == stock["token_ids"]
        assert ours["logprobs"]["token_logprobs"] == stock["logprobs"]["token_logprobs"]


def test_every_machine_of_a_cluster_takes_its_share_over_its_own_link(pair: Compared) -> None:
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
