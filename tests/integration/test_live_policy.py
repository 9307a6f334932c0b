"""The default policy on real engines: prompts of all lengths, a load that is first prefill and then
decode, a line that crawls and comes back, and more than can be carried. Every answer is right."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import pytest

from prfaas.testing.calling import Answer, call
from prfaas.testing.comparing import assert_same_or_near_tie, greedy
from prfaas.testing.measuring import prompt
from prfaas.testing.running import SecondGateway

pytestmark = pytest.mark.engine

AT_ONCE = 5
LENGTHS = (20, 300, 1200, 2600)
LASTING_S = 1.5
"""A prompt for which a route is worth a thought."""
HANG_S = 300.0
"""Ends what never happens."""
MANY = (4, 4, 8, 16, 32)
"""At once, by turns, until one goes over the line. A machine that was busy elsewhere has made the
line's end look slow, and it is soonest there only where the others are behind one another here."""
WORSE = 8
"""A line crawls where one hand-off takes so many times as long as all those at once have taken."""
CONNECTIONS = 10
"""More than the line has: the relay slows each by itself."""
TOO_MANY = 24
ANSWER_TOKENS = 120
"""Long enough to be under way together, and for a policy that looks once a second."""


def changes(url: str) -> str:
    lines = call(f"{url}/metrics").body.decode().splitlines()
    return "\n".join(x for x in lines if x.startswith("prfaas_scheduler_role_changes_total"))


def metric(url: str, name: str) -> float:
    """Of the only one of this name."""
    lines = call(f"{url}/metrics").body.decode().splitlines()
    (sample,) = [line for line in lines if line.startswith(f"{name}{{")]
    return float(sample.split()[-1])


def route_of(answer: Answer) -> str:
    return answer.headers["x-prfaas-route"].partition(";")[0]


def ask(gateway: SecondGateway, bodies: Sequence[Any], at_once: int) -> list[Answer]:
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(lambda body: call(f"{gateway.url}/v1/completions", body), bodies))


def assert_right(stack: Any, body: Any, answer: Answer) -> None:
    stock = call(f"{stack.plain.url}/v1/completions", body).json()["choices"][0]
    assert_same_or_near_tie(answer.json()["choices"][0], stock)


@pytest.fixture(scope="module")
def auto(stacks: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecondGateway]:
    """One whose roles stay as they are and that refuses nothing, however slow this machine is: what
    is on trial is where prompts go."""
    home = tmp_path_factory.mktemp("auto") / "routes"
    running, patient = stacks.get("gdn").running, {"ttft": "10 min"}
    with SecondGateway(
        running, home, policy="auto", threshold=None, roles="fixed", options=patient
    ) as gateway:
        gateway.wait_until_ready()
        yield gateway


def test_prompts_of_all_lengths_find_a_way(stacks: Any, auto: SecondGateway) -> None:
    stack = stacks.get("gdn")
    bodies = [
        greedy(stack.model, prompt(f"mixed {n}", LENGTHS[n % len(LENGTHS)])) for n in range(12)
    ]
    answers = ask(auto, bodies, 4)
    assert {answer.status for answer in answers} == {200}
    for body, answer in zip(bodies, answers, strict=True):
        assert answer.headers["x-prfaas-attempts"] == "1", answer.headers["x-prfaas-route"]
        assert_right(stack, body, answer)
    ways = sorted(Counter(map(route_of, answers)).items())
    stacks.figures.append(f"policy auto, prompts of {LENGTHS} tokens: {ways}")


def test_routes_leave_a_line_that_crawls_and_come_back(stacks: Any, auto: SecondGateway) -> None:
    stack = stacks.get("gdn")
    tokens = stack.speed.tokens_lasting(LASTING_S, least=1000, most=6000)
    seeds = iter(range(10_000))

    def some(count: int) -> list[Any]:
        return [greedy(stack.model, prompt(f"line {next(seeds)}", tokens)) for _ in range(count)]

    def offloaded() -> tuple[int, int, float]:
        """The bytes of one over the line, how many were asked at once, and how long all took."""
        end, told = time.monotonic() + HANG_S, Counter[str]()
        for count in itertools.cycle(MANY):
            began = time.monotonic()
            answers = ask(auto, some(count), count)
            told.update(answer.headers["x-prfaas-route"] for answer in answers)
            for answer in answers:
                if route_of(answer) == "offload":
                    size = int(answer.headers["x-prfaas-kv-bytes"])
                    return size, count, time.monotonic() - began
            assert time.monotonic() < end, f"nobody uses the line: {told}"
        raise AssertionError

    def one_takes_s() -> float:
        """What the gateway believes that one hand-off takes."""
        return size / metric(auto.url, "prfaas_scheduler_line_rate_bytes_per_second")

    size, count, took_s = offloaded()
    began = time.monotonic()
    while one_takes_s() > took_s:  # A busy machine may have made it look slow already.
        assert time.monotonic() < began + HANG_S, "a line on which nobody is does not recover"
        time.sleep(0.1)
    began = time.monotonic()
    stack.line.slow(size / (CONNECTIONS * WORSE * took_s))
    try:
        with ThreadPoolExecutor(2 * count) as pool:
            bodies: list[Any] = []
            under_way: list[Future[list[Answer]]] = []
            while one_takes_s() < WORSE * took_s:  # Somebody must be on the line for it to be seen.
                if all(future.done() for future in under_way):
                    more = some(count)
                    bodies += more
                    under_way += [pool.submit(ask, auto, [body], 1) for body in more]
                assert time.monotonic() < began + HANG_S, "the line is not seen to crawl"
                time.sleep(0.05)
            assert bodies, "nobody was on the line"
            seen_s = time.monotonic() - began
            after = ask(auto, some(4), 4)
            before = [future.result()[0] for future in under_way]
    finally:
        stack.line.mend()
    assert {answer.status for answer in (*before, *after)} == {200}
    told = [answer.headers["x-prfaas-route"] for answer in after]
    assert "offload" not in map(route_of, after), told
    assert "the line from" not in " ".join(told), "nor were they, and then moved"
    for body, answer in zip(bodies, before, strict=True):
        assert_right(stack, body, answer)
    back = time.monotonic()
    offloaded()
    stacks.figures.append(
        f"a line that crawls is seen after {seen_s:.1f} s, routes return after "
        f"{time.monotonic() - back:.0f} s; of those on it "
        f"{sum(a.headers['x-prfaas-attempts'] != '1' for a in before)} began anew"
    )


def test_of_too_many_those_in_time_are_served_and_the_rest_is_told_at_once(
    stacks: Any, tmp_path: Path
) -> None:
    stack = stacks.get("gdn")
    tokens = stack.speed.tokens_lasting(LASTING_S, least=1000, most=6000)
    options = {"ttft": f"{3 * LASTING_S:.0f} s"}
    gateway = SecondGateway(
        stack.running, tmp_path / "o", policy="auto", threshold=None, roles="fixed", options=options
    )
    with gateway, ThreadPoolExecutor(TOO_MANY) as pool:
        gateway.wait_until_ready()
        known = [greedy(stack.model, prompt(f"known {n}", tokens)) for n in range(12)]
        assert 200 in {answer.status for answer in ask(gateway, known, 2)}
        bodies = [greedy(stack.model, prompt(f"many {n}", tokens)) for n in range(TOO_MANY)]
        asked = {pool.submit(ask, gateway, [body], 1): body for body in bodies}
        ended = [(future.result()[0], asked[future]) for future in as_completed(asked)]
        statuses = [answer.status for answer, _ in ended]
        assert set(statuses) == {200, 429}, statuses
        # Whoever is refused does not wait for the others, though all are tokenised first, and a
        # fast engine may have answered some of them by then.
        assert statuses.index(429) < TOO_MANY - 1 - statuses[::-1].index(200), statuses
        for answer, body in ended:
            if answer.status == 200:
                assert_right(stack, body, answer)
            else:
                assert int(answer.headers["retry-after"]) >= 1
        (again,) = ask(gateway, [greedy(stack.model, prompt("after", 300))], 1)
        assert again.status == 200, "it serves on"
    stacks.figures.append(f"too many at once: {sorted(Counter(statuses).items())}")


def test_a_load_that_is_prefill_and_then_decode_changes_roles_and_nobody_notices(
    stacks: Any, tmp_path: Path
) -> None:
    stack = stacks.get("gdn")
    # None is refused or begun anew, however slow this machine is: on trial is who decodes.
    gateway = SecondGateway(
        stack.running,
        tmp_path / "roles",
        slots=2,
        name="decides",
        policy="auto",
        threshold=None,
        options={"ttft": "10 min"},
        link_grace="60 s",
        transfer_stall="120 s",
    )
    with gateway:
        gateway.wait_until_ready()
        long = [greedy(stack.model, prompt(f"long {n}", 2000), max_tokens=2) for n in range(6)]
        for body, answer in zip(long, ask(gateway, long, 2), strict=True):
            assert answer.status == 200, answer.body
            assert answer.headers["x-prfaas-attempts"] == "1", answer.headers["x-prfaas-route"]
            assert_right(stack, body, answer)
        bodies = [
            greedy(stack.model, prompt(f"roles {n}", 300 + 900 * (n % 2)), max_tokens=ANSWER_TOKENS)
            for n in range(2 * AT_ONCE)
        ]
        answers: list[Answer] = []
        for _ in range(12):  # What decode takes must have been seen; that takes a while.
            answers = ask(gateway, bodies, AT_ONCE)
            if "decode" in changes(gateway.url):
                break
        assert 'engine="west-prefill",role="decode"' in changes(gateway.url)
        for body, answer in zip(bodies, answers, strict=True):
            assert answer.status == 200, answer.body
            assert answer.headers["x-prfaas-attempts"] == "1", answer.headers["x-prfaas-route"]
            assert_right(stack, body, answer)
        stacks.figures.append(
            f"policy auto: {len(answers)} served by "
            f"{sorted({a.headers['x-prfaas-decode-engine'] for a in answers})}, routes "
            f"{sorted(set(map(route_of, answers)))}"
        )
