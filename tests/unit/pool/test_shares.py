"""Places of an engine, divided among gateways that hear of each other late."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.core.gateway_sessions import EngineUse, Renewal, Standing, Use
from prfaas.pool.sessions import Sessions
from prfaas.pool.shares import fair_parts

TOTAL = 8


@pytest.mark.parametrize(
    ("total", "wanted", "parts"),
    [
        (9, [9, 9, 9], [3, 3, 3]),
        (9, [1, 9, 9], [1, 4, 4]),
        (9, [0, 0, 9], [0, 0, 9]),
        (9, [0, 0, 0], [3, 3, 3]),
        (9, [1, 2, 0], [3, 4, 2]),
        (2, [5, 5, 5], [0, 1, 1]),
        (0, [1], [0]),
        (7, [3], [7]),
    ],
)
def test_parts_are_fair_and_whole(total: int, wanted: list[int], parts: list[int]) -> None:
    assert fair_parts(total, wanted) == parts


@given(st.integers(0, 50), st.lists(st.integers(0, 60), min_size=1, max_size=8))
def test_all_there_is_is_divided_and_nobody_is_envied(total: int, wanted: list[int]) -> None:
    parts = fair_parts(total, wanted)
    assert sum(parts) == total
    for want, part in zip(wanted, parts, strict=True):
        if part < want:
            assert part >= max(parts) - 1


@dataclass
class Gateway:
    """Takes places as it may, and hears late what it may."""

    name: str
    may: int = 1
    held: int = 0
    waiting: int = 0
    answers: list[Standing] = field(default_factory=list)

    def renewal(self, known: int) -> Renewal:
        use = Use(total=TOTAL, held=self.held, wanted=self.held + self.waiting, may=self.may)
        return Renewal(
            name=self.name, known=known, engines={"d": EngineUse(decode=use, prefill=use)}
        )

    def take(self) -> None:
        while self.waiting and self.held < self.may:
            self.waiting, self.held = self.waiting - 1, self.held + 1


class Deployment:
    def __init__(self, count: int) -> None:
        self.sessions = Sessions()
        self.gateways = [Gateway(f"gateway{i}") for i in range(count)]
        self.now = 0.0

    def ask(self, gateway: Gateway) -> None:
        renewal = gateway.renewal(len(self.gateways))
        self.sessions.renew(gateway.name, renewal, now=self.now)
        gateway.answers.append(self.sessions.standing(gateway.name, now=self.now))

    def hear(self, gateway: Gateway) -> None:
        if gateway.answers:
            gateway.may = gateway.answers.pop(0).engines["d"].decode
            gateway.answers.clear()

    def round(self) -> None:
        """Everybody asks, hears and takes."""
        self.now += 1.0
        for gateway in self.gateways:
            self.ask(gateway)
            self.hear(gateway)
            gateway.take()

    @property
    def held(self) -> int:
        return sum(gateway.held for gateway in self.gateways)


@pytest.mark.parametrize("count", [1, 2, 3, 12])
def test_all_at_full_load_fill_an_engine_and_exceed_it_by_one_each_at_most(count: int) -> None:
    those = Deployment(count)
    for gateway in those.gateways:
        gateway.waiting = 100
    for _ in range(10):
        those.round()
        assert those.held <= TOTAL + count
    assert those.held >= TOTAL


def test_who_is_alone_has_all_at_once() -> None:
    those = Deployment(1)
    those.gateways[0].waiting = 100
    those.round()
    assert those.held == TOTAL


def test_what_others_do_not_use_is_had_in_three_rounds() -> None:
    those = Deployment(3)
    for _ in range(8):
        those.round()
    assert all(gateway.may >= 2 for gateway in those.gateways), "an equal part ahead of need"
    those.gateways[1].waiting = 100
    for _ in range(3):
        those.round()
    assert those.gateways[1].held == TOTAL
    # And back, as they end.
    those.gateways[0].waiting = 100
    for _ in range(8):
        those.gateways[1].held = max(0, those.gateways[1].held - 2)
        those.gateways[1].waiting = 100
        those.round()
    assert those.gateways[0].held >= 3
    assert those.held <= TOTAL + 3


def test_the_places_of_one_that_died_are_the_others() -> None:
    those = Deployment(2)
    for gateway in those.gateways:
        gateway.waiting = 100
    for _ in range(8):
        those.round()
    dead = those.gateways.pop()
    assert those.sessions.end(dead.name)
    those.round()
    assert those.gateways[0].held == TOTAL


def test_an_agent_that_has_forgotten_all_gives_nothing_twice() -> None:
    those = Deployment(3)
    for gateway in those.gateways:
        gateway.waiting = 100
    for _ in range(8):
        those.round()
    those.sessions = Sessions()
    for _ in range(8):
        those.round()
        assert those.held <= TOTAL + 3


def test_one_that_has_not_heard_that_it_may_have_less_is_counted_with_what_it_had() -> None:
    those = Deployment(3)
    first, *others = those.gateways
    first.waiting = TOTAL
    for _ in range(8):
        those.round()
    first.held = 0
    those.ask(first)
    first.answers.clear()  # It was told that it may have less; the answer was lost.
    for gateway in others:
        gateway.waiting = 100
        those.ask(gateway)
        those.hear(gateway)
        gateway.take()
    first.waiting = 100
    first.take()
    assert those.held <= TOTAL + 3


def test_a_newcomer_that_knows_nothing_yet_takes_nothing_away() -> None:
    those = Deployment(2)
    for gateway in those.gateways:
        gateway.waiting = 100
    for _ in range(8):
        those.round()
    newcomer = Gateway("gateway9", may=TOTAL)
    those.gateways.append(newcomer)
    those.ask(newcomer)
    for gateway in those.gateways[:2]:
        those.ask(gateway)
        those.hear(gateway)
        assert gateway.may >= 2
    those.hear(newcomer)
    assert newcomer.may == 1


steps = st.lists(
    st.tuples(
        st.sampled_from(["ask", "hear", "lose", "take", "end", "want", "round"]),
        st.integers(0, 3),
        st.integers(1, 12),
    ),
    max_size=120,
)


@given(steps)
def test_late_and_lost_answers_never_give_a_place_twice(
    script: list[tuple[str, int, int]],
) -> None:
    those = Deployment(4)
    those.gateways[0].waiting = TOTAL
    for _ in range(8):  # One has had all, and has nothing now.
        those.round()
    assert those.gateways[0].may == TOTAL
    those.gateways[0].held = 0
    for what, which, count in script:
        gateway = those.gateways[which]
        if what == "ask":
            # One question at a time, as the driver does it; an answer that is lost is not heard.
            gateway.answers.clear()
            those.ask(gateway)
        elif what == "hear":
            those.hear(gateway)
        elif what == "lose":
            gateway.answers.clear()
        elif what == "take":
            gateway.take()
        elif what == "end":
            gateway.held = max(0, gateway.held - count)
        elif what == "want":
            gateway.waiting = count
        else:
            those.round()
        assert those.held <= TOTAL + 4
