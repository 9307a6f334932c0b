"""Whatever comes and goes: everyone's share is near their weight, and nothing is left lying."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from prfaas.scheduler.events import RequestArrived
from prfaas.scheduler.state import Record
from prfaas.scheduler.turns import ONE_IN, Turns

WEIGHTS = {"a": 1.0, "b": 2.0, "c": 0.5}
LARGEST = 1000

sizes = st.integers(1, LARGEST)


def request(number: int, tenant: str, *, klass: int = 0, priority: int = 0) -> Record:
    weight = WEIGHTS[tenant]
    event = RequestArrived(
        f"{number}", 1, 1, tenant=tenant, tenant_class=klass, weight=weight, priority=priority
    )
    return Record(event, 0.0)


@given(st.lists(st.tuples(sizes, sizes, sizes), min_size=20, max_size=80), st.integers(0, 30))
def test_shares_of_those_who_always_wait_are_as_their_weights(
    script: list[tuple[int, int, int]], head_start: int
) -> None:
    """From any moment on at which all wait, whatever one of them was given before alone."""
    turns: Turns[Record] = Turns()
    size_of = {}
    numbers = iter(range(10_000))

    def add(tenant: str, size: int) -> None:
        each = request(next(numbers), tenant)
        size_of[each.request_id] = size
        turns.add(each, size)

    for _ in range(head_start + 1):
        add("a", LARGEST)
    for _ in range(head_start):
        turns.serve(next(turns.in_turn()))
    for of_each in script:
        for tenant, size in zip(WEIGHTS, of_each, strict=True):
            add(tenant, size)
    waiting = Counter(dict.fromkeys(WEIGHTS, len(script)))
    given_to = dict.fromkeys(WEIGHTS, 0.0)
    while all(waiting.values()):
        first = next(turns.in_turn())
        turns.serve(first)
        waiting[first.tenant] -= 1
        given_to[first.tenant] += size_of[first.request_id] / WEIGHTS[first.tenant]
        for one in WEIGHTS:
            for other in WEIGHTS:
                bound = LARGEST / WEIGHTS[one] + LARGEST / WEIGHTS[other]
                assert given_to[one] - given_to[other] <= bound


steps = st.one_of(
    st.tuples(
        st.just("add"),
        st.sampled_from(sorted(WEIGHTS)),
        st.integers(-2, 2),
        st.integers(-2, 2),
        sizes,
    ),
    st.tuples(st.just("serve"), st.integers(0, 3)),
    st.tuples(st.just("drop"), st.integers(0, 30)),
)


@settings(max_examples=200)
@given(st.lists(steps, max_size=120))
def test_it_holds_what_was_added_and_is_gone_once(script: list[tuple[object, ...]]) -> None:
    turns: Turns[Record] = Turns()
    waiting: dict[str, Record] = {}
    for number, step in enumerate(script):
        match step:
            case ("add", str(tenant), int(klass), int(priority), int(size)):
                each = request(number, tenant, klass=klass, priority=priority)
                waiting[each.request_id] = each
                turns.add(each, size)
            case ("serve", int(which)):  # The first, or one behind it that can use it.
                offered = list(turns.in_turn())
                if offered:
                    one = offered[min(which, len(offered) - 1)]
                    turns.serve(one)
                    del waiting[one.request_id]
            case ("drop", int(which)):
                name = f"{which}"
                assert turns.drop(name) == (waiting.pop(name, None) is not None)
        offered = [each.request_id for each in turns.in_turn()]
        assert sorted(offered) == sorted(waiting)
        assert len(turns) == len(waiting)
        assert bool(turns) == bool(waiting) == (turns.first() is not None)


@given(st.lists(st.tuples(st.integers(-3, 3), sizes), min_size=1, max_size=20))
def test_whoever_waits_is_served_whatever_better_classes_ask_for(
    waiting: list[tuple[int, int]],
) -> None:
    turns: Turns[Record] = Turns()
    for number, (klass, size) in enumerate(waiting):
        turns.add(request(number, "a", klass=klass), size)
    mine = {f"{number}" for number in range(len(waiting))}
    for number in range(len(waiting) * ONE_IN):
        turns.add(request(1000 + number, "b", klass=-9), 1)
        first = next(turns.in_turn())
        turns.serve(first)
        mine.discard(first.request_id)
    assert not mine
