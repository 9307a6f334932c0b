"""The default policy on real engines: prompts of all lengths, a load that is first prefill and then
decode, a line that crawls and comes back, and more than can be carried. Every answer is right."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import pytest

from prfaas.testing.calling import Answer, call, metric
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
MANY = (4, 4, 8, 16)
"""At once, by turns, until one goes over the line. A machine that was busy elsewhere has made the
line's end look slow, and it is soonest there only where the others are behind one another here."""
WORSE = 8
"""A line crawls where one hand-off takes so many times as long as the fewest at once: longer than
the last of the most waits for the only engine that needs no line."""
CONNECTIONS = 10
"""More than the line has: the relay slows each by itself."""
TOO_MANY = 24
ANSWER_TOKENS = 120
"""Long enough to be under way together, and for a policy that looks once a second."""


def changes(url: str) -> str:
    lines = call(f"{url}/metrics").body.decode().splitlines()
    return "\n".join(x for x in lines if x.startswith("prfaas_scheduler_role_changes_total"))


def believed_rate(gateway: SecondGateway) -> float:
    """Bytes a second, of the only line."""
    return metric(gateway.url, "prfaas_scheduler_line_rate_bytes_per_second")


def route_of(answer: Answer) -> str:
    return answer.headers["x-prfaas-route"].partition(";")[0]


def ask(gateway: SecondGateway, bodies: Sequence[Any], at_once: int) -> list[Answer]:
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(lambda body: call(f"{gateway.url}/v1/completions", body), bodies))


def assert_right(stack: Any, body: Any, answer: Answer) -> None:
    stock = call(f"{stack.plain.url}/v1/completions", body).json()["choices"][0]
    assert_same_or_near_tie(answer.json()["choices"][0], stock)


def deciding(stack: Any, home: Path, engines: Collection[str] | None = None) -> SecondGateway:
    """One whose roles stay as they are and that refuses nothing, however slow this machine is: what
    is on trial is where prompts go."""
    patient = {"ttft": "10 min"}
    return SecondGateway(
        stack.running,
        home,
        engines=engines,
        policy="auto",
        threshold=None,
        roles="fixed",
        options=patient,
    )


def test_prompts_of_all_lengths_find_a_way(stacks: Any, tmp_path: Path) -> None:
    stack = stacks.get("gdn")
    bodies = [
        greedy(stack.model, prompt(f"mixed {n}", LENGTHS[n % len(LENGTHS)])) for n in range(12)
    ]
    with deciding(stack, tmp_path / "routes") as gateway:
        answers = ask(gateway, bodies, 4)
    assert {answer.status for answer in answers} == {200}
    for body, answer in zip(bodies, answers, strict=True):
        assert answer.headers["x-prfaas-attempts"] == "1", answer.headers["x-prfaas-route"]
        assert_right(stack, body, answer)
    ways = sorted(Counter(map(route_of, answers)).items())
    stacks.figures.append(f"policy auto, prompts of {LENGTHS} tokens: {ways}")


class OnALine:
    """Prompts that are worth a thought, put to a gateway that has one engine on each side."""

    def __init__(self, stack: Any, gateway: SecondGateway) -> None:
        self._model, self._gateway = stack.model, gateway
        self._tokens = stack.speed.tokens_lasting(LASTING_S, least=1000, most=6000)
        self._seeds = iter(range(10_000))

    def some(self, count: int) -> list[Any]:
        prompts = [prompt(f"line {next(self._seeds)}", self._tokens) for _ in range(count)]
        return [greedy(self._model, text) for text in prompts]

    def ask(self, bodies: list[Any]) -> list[Answer]:
        """All of them at once."""
        return ask(self._gateway, bodies, len(bodies))

    def offloaded(self) -> int:
        """The bytes of the first that goes over the line."""
        end, told = time.monotonic() + HANG_S, Counter[str]()
        for count in itertools.cycle(MANY):
            answers = self.ask(self.some(count))
            assert {answer.status for answer in answers} == {200}, [x.body for x in answers]
            told.update(answer.headers["x-prfaas-route"] for answer in answers)
            for answer in answers:
                if route_of(answer) == "offload":
                    return int(answer.headers["x-prfaas-kv-bytes"])
            assert time.monotonic() < end, f"nobody uses the line: {told}"
        raise AssertionError


def moved(answer: Answer) -> bool:
    """It had begun over the line and was not answered over it."""
    why = answer.headers["x-prfaas-route"]
    return "the line from" in why or "the transfer stalled" in why


def test_routes_leave_a_line_that_crawls_and_come_back(stacks: Any, tmp_path: Path) -> None:
    stack = stacks.get("gdn")
    engines = {e.name for e in stack.running.deployment.engines} - {"west-prefill"}
    with deciding(stack, tmp_path / "line", engines) as gateway:
        line = OnALine(stack, gateway)
        size = line.offloaded()
        began = time.monotonic()
        line.ask(line.some(MANY[0]))
        took_s = time.monotonic() - began
        stack.line.slow(size / (CONNECTIONS * WORSE * took_s))
        crawls = time.monotonic()
        try:
            asked: list[tuple[Any, Answer]] = []
            for count in itertools.cycle(MANY):
                bodies = line.some(count)
                asked += zip(bodies, line.ask(bodies), strict=True)
                if any(moved(answer) for _, answer in asked):
                    break
                told = Counter(answer.headers["x-prfaas-route"] for _, answer in asked)
                assert time.monotonic() < crawls + HANG_S, f"nobody leaves the line: {told}"
            seen_s = time.monotonic() - crawls
        finally:
            stack.line.mend()
        for _, answer in asked:
            assert answer.status == 200, answer.body
            assert route_of(answer) != "offload", answer.headers["x-prfaas-route"]
        for body, answer in asked[-count:]:  # Who was moved is one of the last.
            assert_right(stack, body, answer)
        back = time.monotonic()
        # Before that, who finds the only other engine busy is refused: no way is in time.
        while size / believed_rate(gateway) > took_s:
            assert time.monotonic() < back + HANG_S, "a line on which nobody is does not recover"
            time.sleep(0.1)
        line.offloaded()
    stacks.figures.append(
        f"of {len(asked)} asked in {seen_s:.0f} s while a line crawled, "
        f"{sum(moved(answer) for _, answer in asked)} had begun over it; routes return after "
        f"{time.monotonic() - back:.0f} s"
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
