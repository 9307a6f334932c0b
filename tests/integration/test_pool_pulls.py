"""Real engines: what another machine has cached is copied and loaded, and changes no token.

Prompts are prefilled in the east and answered on the first machine of the west; then that is taken
out of service, and the same prompts are answered on the second, which has never seen them. One
comes from the first machine's cache over the cluster's network, others from there or from the
east's over the line, whichever was seen to be sooner; once the first machine's agent was killed,
from the east's. One prompt's bytes are zeroed where they are cached: its answer must be another,
or the copy would prove nothing.

The hybrid alone by default; `make test-pulls` has every kind of cache.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from string import Template
from typing import Any

import pytest
from tests.integration.test_pool import ask, cached, choice, is_replaced, loaded_tokens, until, zero

from prfaas.testing.calling import call, metric
from prfaas.testing.comparing import assert_same_or_near_tie
from prfaas.testing.measuring import prompt
from prfaas.testing.running import Compared, RunningDeployment, compared, engine_args_here

pytestmark = [pytest.mark.engine, pytest.mark.alone]

DEPLOYMENT = Path(__file__).with_name("pulls.yaml")
LENGTHS = {"gdn": 2200, "sliding_window": 2200, "dense": 3000, "mla": 2200}


@pytest.fixture(params=os.environ.get("PULL_MODELS", "gdn").split())
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Compared]]:
    kind = request.param
    file = tmp_path / "pulls.yaml"
    args = engine_args_here(kind)
    file.write_text(Template(DEPLOYMENT.read_text()).substitute(args=json.dumps(args)))
    with compared(file, tmp_path, model=f"tiny:{kind}", args=args) as both:
        yield kind, both


def drain(running: RunningDeployment, machine: str, *, undo: bool = False) -> None:
    answer = call(f"{running.url}/drain", {"target": machine, "undo": undo})
    assert answer.status == 200, answer.body


def copied(admin: str) -> float:
    """How much its agent has sent to others."""
    return metric(admin, "prfaas_pool_copies_total", outcome="complete")


def pulled_tokens(answer: Any) -> int:
    return int(answer.headers.get("x-prfaas-pulled-tokens", 0))


def test_what_another_machine_has_cached_is_loaded(
    pair: tuple[str, Compared], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, (running, plain) = pair
    size, model = LENGTHS[kind], running.deployment.model.served_name
    names = ("near", "again", "zeroed", "salted", "far")
    prompts = {name: prompt(f"{name} {kind}", size) for name in names}
    drain(running, "west-2")
    for ids in prompts.values():
        answer = ask(running.url, model, ids)
        assert answer.headers["x-prfaas-route"].startswith("offload"), answer.headers
        assert answer.headers["x-prfaas-decode-engine"] == "west-1-decode"
    first, second, east = (running.admin(m) for m in ("west-1", "west-2", "east"))
    until(lambda: len(cached(first)) >= len(names), "the transfers were not cached")
    until(lambda: len(cached(east)) >= len(names), "what was sent was not cached")
    drain(running, "west-2", undo=True)
    drain(running, "west-1")
    boundary = max(e.prefix.end_token for e in cached(first))

    # Over the cluster's network, from the first machine, which does not answer itself any more.
    for name in ("near", "again"):
        got = ask(running.url, model, prompts[name])
        assert got.headers["x-prfaas-decode-engine"] == "west-2-decode"
        assert pulled_tokens(got) == loaded_tokens(got) == boundary, got.headers
        assert got.headers["x-prfaas-route"].startswith("direct"), got.headers
        ask(plain.url, model, prompts[name])  # its second answer has the decode engine's schedule
        stock = ask(plain.url, model, prompts[name])
        assert_same_or_near_tie(choice(got), choice(stock))
        if kind != "mla":
            assert choice(got)["token_ids"] == choice(stock)["token_ids"]
    assert copied(first) >= 1
    assert copied(first) + copied(east) == 2
    assert metric(second, "prfaas_pool_copies_total", outcome="kept") == 2
    assert metric(second, "prfaas_pool_loads_total", outcome="ready") == 2

    # The others' bytes are what is answered from.
    zero(running, prompts["zeroed"], monkeypatch, machine="west-1", engine="west-1-decode")
    zero(running, prompts["zeroed"], monkeypatch, machine="east", engine="east-prefill")
    broken = ask(running.url, model, prompts["zeroed"])
    assert pulled_tokens(broken) == boundary
    stock = ask(plain.url, model, prompts["zeroed"])
    assert choice(broken)["token_ids"] != choice(stock)["token_ids"]

    # Another salt is another tenant's: nothing is copied.
    salted = ask(running.url, model, prompts["salted"], cache_salt="another tenant's")
    assert not pulled_tokens(salted)
    assert_same_or_near_tie(choice(salted), choice(ask(plain.url, model, prompts["salted"])))

    # The first machine's agent is killed: its cache is gone, and the east has the prompt still.
    (agent,) = running.pids("west-1-agent")
    os.kill(agent, signal.SIGKILL)
    until(lambda: is_replaced(running, "west-1-agent", [agent]), "it was not replaced")
    until(running.ready, "the deployment did not come back")
    until(lambda: _links(running, "east") == 2, "the line did not come back")
    before = copied(east)
    far = ask(running.url, model, prompts["far"])
    assert pulled_tokens(far) == boundary, far.headers
    assert copied(east) == before + 1
    ask(plain.url, model, prompts["far"])
    stock = ask(plain.url, model, prompts["far"])
    assert_same_or_near_tie(choice(far), choice(stock))


def _links(running: RunningDeployment, machine: str) -> int:
    links = call(f"{running.admin(machine)}/links").json()["links"]
    return sum(link["connections"] > 0 for link in links)
