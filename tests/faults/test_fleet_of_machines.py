"""Three clusters of several machines on emulated lines: join, offload, lose an agent, lose a line.

Every machine is a network namespace with a real agent, and engines without a model whose hand-offs
are real bytes; a real gateway stands outside. Agents are bound on every interface and advertise the
address that others reach.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from prfaas.testing.calling import Answer, call
from prfaas.testing.fleet_of_machines import (
    DEADLINES_S,
    ENGINES,
    GATEWAYS,
    LINES,
    LONG,
    MACHINES,
    SHORT,
    Fleet,
    Load,
    clusters_of,
    until,
)
from prfaas.testing.sites import Sites
from prfaas.testing.wan import unavailable

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(unavailable() is not None, reason=unavailable() or ""),
]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with contextlib.ExitStack() as stack:
        sites = stack.enter_context(Sites(MACHINES, LINES))
        fleet = Fleet(sites, tmp_path_factory.mktemp("fleet"))
        stack.callback(fleet.close)
        until(fleet.whole, f"whole: {fleet.ready()}")
        yield fleet


def is_told_why_not(answer: Answer) -> bool:
    """Whether a long prompt was not offloaded because something was in the way, and its answer says
    so. Where a machine is busy, engines are late with their health checks, and lines carry less
    than they should."""
    route, _, reason = answer.headers["x-prfaas-route"].partition("; reason=")
    if answer.headers["x-prfaas-attempts"] != "1":
        return route != "offload"
    decided = f"uncached {LONG} > threshold 1024"
    no_way = (f'"{decided}, no PrfaaS engine in reach', f'"{decided}; ', '"no decode engine is up')
    return reason.startswith(no_way)


def assert_as_decided(answers: Sequence[Answer], lengths: Sequence[int], fleet: Fleet) -> None:
    """Long prompts are offloaded if they can be, and short ones are not."""
    for length, answer in zip(lengths, answers, strict=True):
        route = answer.headers["x-prfaas-route"]
        offloaded = length == LONG and not is_told_why_not(answer)
        assert route.startswith("offload") == offloaded, (route, fleet.log("gateway"))


def test_hand_offs_go_from_machine_to_machine(fleet: Fleet) -> None:
    with ThreadPoolExecutor(12) as pool:
        lengths = [SHORT if number % 3 == 0 else LONG for number in range(48)]
        answers = list(pool.map(fleet.ask, range(48), lengths))
    taken = Counter(clusters_of(answer) for answer in answers)
    assert_as_decided(answers, lengths, fleet)
    # Both machines of the PrfaaS cluster, over the line to both machines of the near PD cluster,
    # and inside a machine, and between two. Where a line is full they may go to the other cluster.
    wanted = {*itertools.product(("e1", "e2"), ("w1", "w2")), ("w1", "w1"), ("w1", "w2")}
    numbers = itertools.count(600)

    def all_taken() -> bool:
        if not wanted <= taken.keys():
            with ThreadPoolExecutor(12) as pool:
                more = pool.map(fleet.ask, itertools.islice(numbers, 12), [SHORT, LONG, LONG] * 4)
                answers.extend(more)
            taken.update(clusters_of(answer) for answer in answers[-12:])
        return wanted <= taken.keys()

    until(all_taken, f"hand-offs over every pair of machines: {taken}")
    counted = fleet.counters()
    handed_over = sum(count for (prefilled, _), count in taken.items() if prefilled is not None)
    again = sum(int(answer.headers["x-prfaas-attempts"]) - 1 for answer in answers)
    assert counted["recomputed"] == 0
    assert handed_over <= counted["imported"] <= handed_over + again
    until(lambda: all(fleet.free(machine) for machine in ENGINES), "memory is free again")


SLOTS = 8
"""Of every engine of the fleet."""


def told(fleet: Fleet, machine: str, port: int, path: str) -> Any:
    """What a process of a machine answers."""
    scheme = "https" if port == 7401 else "http"
    return call(f"{scheme}://{fleet.sites.management_address(machine)}:{port}{path}").json()


def whole_and_met(fleet: Fleet) -> bool:
    """Every gateway is ready, and every agent knows all of them."""
    return (
        fleet.whole()
        and all(fleet.ready(url)["ready"] for url in fleet.urls)
        and all(sessions(fleet, machine) == len(GATEWAYS) for machine in ENGINES)
    )


def sessions(fleet: Fleet, machine: str) -> int:
    """How many gateways the agent of a machine takes for alive."""
    return len(told(fleet, machine, 7401, "/gateways")["gateways"])


def test_three_gateways_together_keep_engines_within_their_slots(fleet: Fleet) -> None:
    until(lambda: whole_and_met(fleet), "whole")
    with ThreadPoolExecutor(90) as pool:
        urls = itertools.cycle(fleet.urls)
        lengths = itertools.cycle([SHORT, SHORT, SHORT, SHORT, LONG])
        asked = [pool.submit(fleet.ask, n, next(lengths), next(urls)) for n in range(5000, 5180)]
        assert len([future.result() for future in asked]) == 180
    most = {
        engine: told(fleet, machine, 8000 + number, "/counters")["most_under_way"]
        for machine, engines in ENGINES.items()
        for number, engine in enumerate(engines)
    }
    print(f"the most that engines of {SLOTS} slots had at once: {most}")
    assert max(most.values()) <= SLOTS + len(GATEWAYS)
    until(lambda: all(fleet.free(machine) for machine in ENGINES), "memory is free again")


def test_what_a_killed_gateway_leaves_is_free_long_before_its_deadlines(fleet: Fleet) -> None:
    until(lambda: whole_and_met(fleet), "whole")
    url = fleet.urls[2]
    with ThreadPoolExecutor(24) as pool:
        for number in range(6000, 6024):
            prompt = [(7 * number + i) % 251 for i in range(LONG)]
            body = {"prompt": prompt, "max_tokens": 16}
            pool.submit(call, f"{url}/v1/completions", body)
        until(lambda: not all(fleet.free(machine) for machine in ENGINES), "hand-offs under way")
        fleet.kill("gateway-3")
        killed_at = time.monotonic()
        until(lambda: all(fleet.free(machine) for machine in ENGINES), "memory is free again")
        took_s = time.monotonic() - killed_at
    print(f"free {took_s:.1f} s after it was killed; transfers had {DEADLINES_S['gateway-3']} s")
    until(lambda: all(sessions(fleet, m) == 2 for m in ENGINES), "it is counted no more")
    for number in range(6000, 6003):
        fleet.insist(number, LONG)
    fleet.start_gateway("gateway-3")
    until(lambda: bool(fleet.ready(url)["ready"]), "it is back")


def test_an_agent_that_is_killed_loses_no_request(fleet: Fleet) -> None:
    until(fleet.whole, "whole before")
    with ThreadPoolExecutor(8) as pool:
        asked: list[Future[Answer]] = []
        for number in range(100, 148):
            asked.append(pool.submit(fleet.ask, number, SHORT if number % 4 == 0 else LONG))
        asked[8].result()
        fleet.kill("w2-agent")
        answers = [future.result() for future in asked]
        until(lambda: bool(fleet.ready()["warnings"]), "the loss is told")
        assert fleet.ready()["ready"]
        after = list(pool.map(fleet.ask, range(200, 212), [LONG] * 12))
    assert len(answers) == 48
    assert_as_decided(after, [LONG] * 12, fleet)
    takers = {decoded for prefilled, decoded in map(clusters_of, after) if prefilled is not None}
    assert takers <= {"w1", "s1"}, "whose agents take hand-offs"
    fleet.start_agent("w2")
    until(fleet.whole, "whole again")
    numbers = itertools.count(300)

    def w2_is_used() -> bool:  # Once its engine has registered with the agent again.
        with ThreadPoolExecutor(8) as pool:
            back = list(pool.map(fleet.ask, itertools.islice(numbers, 16), [LONG] * 16))
        return "w2" in {clusters_of(answer)[1] for answer in back}

    until(w2_is_used, "w2 takes hand-offs again")
    until(lambda: all(fleet.free(machine) for machine in ENGINES), "memory is free again")


def test_members_come_and_go_and_every_kind_of_process_dies(fleet: Fleet) -> None:
    until(lambda: fleet.whole() and all(fleet.ready(url)["ready"] for url in fleet.urls), "whole")
    text = fleet.file.read_text()
    with Load(fleet) as load:
        # A machine is upgraded: drained, ended in order, started anew.
        fleet.drain("w2")
        load.passes(12)
        fleet.kill("w2-engines", signal.SIGTERM)
        fleet.kill("w2-agent", signal.SIGTERM)
        load.passes(12)
        fleet.start_agent("w2")
        fleet.start_engines("w2")
        until(fleet.whole, "w2 is back")
        fleet.drain("w2", undo=True)
        load.passes(12)
        # A bad file is refused, then one without a cluster is taken, then the first again.
        fleet.take_over(text[: len(text) // 2], says="all stays as it was")
        load.passes(6)
        less = json.loads(text)
        less["clusters"] = [c for c in less["clusters"] if c["name"] != "south"]
        less["links"] = [k for k in less["links"] if k["to"] != "south"]
        fleet.take_over(json.dumps(less), says="engine s1-d has left the deployment")
        load.passes(12)
        fleet.take_over(text, says="engine s1-d joins cluster south")
        until(fleet.whole, "south is back")
        # A gateway ends in order, and one is killed.
        fleet.kill("gateway-2", signal.SIGTERM)
        load.passes(12)
        fleet.start_gateway("gateway-2")
        until(lambda: bool(fleet.ready(fleet.urls[1])["ready"]), "gateway-2 is back")
        fleet.kill("gateway")
        load.passes(12)
        fleet.start_gateway("gateway")
        until(fleet.whole, "the first gateway is back")
        # Engines and agents of both kinds are killed.
        for victim in ("w1-engines", "e1-engines", "e2-agent", "w1-agent"):
            fleet.kill(victim)
            load.passes(6)
            machine, _, what = victim.partition("-")
            (fleet.start_agent if what == "agent" else fleet.start_engines)(machine)
            until(fleet.whole, f"{victim} is back")
            load.passes(6)
        assert load.ended() == load.answered
    print(f"{load.answered} requests, none lost, none wrong")
    until(lambda: all(fleet.free(machine) for machine in ENGINES), "memory is free again")


def test_a_line_that_is_cut_is_not_used_and_nothing_is_lost(fleet: Fleet) -> None:
    until(fleet.whole, "whole before")
    router = fleet.sites.lines["east", "west"].namespaces[0]
    device = fleet.sites.lines["east", "west"].devices[0]
    switch = ["ip", "-n", router, "link", "set", device]
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(fleet.ask, number, LONG) for number in range(400, 432)]
        asked[4].result()
        subprocess.run([*switch, "down"], check=True)
        assert len([future.result() for future in asked]) == 32
        link_up = 'prfaas_gateway_link_up{source="east",target="west"}'
        until(lambda: fleet.metric(link_up) == 0, "the cut is seen")
        meanwhile = list(pool.map(fleet.ask, range(500, 508), [LONG] * 8))
        cut = {(e, w) for e in ("e1", "e2") for w in ("w1", "w2")}
        assert not cut & {clusters_of(answer) for answer in meanwhile}
        numbers = itertools.count(520)

        def south_takes() -> bool:
            more = list(pool.map(fleet.ask, itertools.islice(numbers, 8), [LONG] * 8))
            return bool({("e1", "s1"), ("e2", "s1")} & {clusters_of(answer) for answer in more})

        until(south_takes, "its line is up")
