"""Engines that other gateways use as well."""

from __future__ import annotations

import pytest

from prfaas.core.errors import CallerError
from prfaas.scheduler import commands as c
from prfaas.scheduler import events as e
from prfaas.testing.scheduler_driver import LONG, SHORT, Driver, topology


def starts(commands: list[c.AnyCommand]) -> list[str]:
    return [x.request_id for x in commands if isinstance(x, c.StartDecode | c.StartPrefill)]


def direct() -> Driver:
    """A decode engine of eight slots, alone."""
    driver = Driver(topology(prefills=0))
    driver(e.EngineDown("east-1", "not here"))
    return driver


def test_no_more_is_taken_than_this_gateways_share() -> None:
    driver = direct()
    driver(e.EngineShared("west-d0", slots=2, prefills=8))
    for name in "abcd":
        driver.arrive(SHORT, name)
    use = driver.scheduler.sharing.use_of("west-d0").decode
    assert (use.total, use.held, use.wanted, use.may) == (8, 2, 4, 2)
    assert starts(driver(e.EngineShared("west-d0", slots=3, prefills=8))) == ["c"]
    assert starts(driver(e.EngineShared("west-d0", slots=99, prefills=8))) == ["d"]
    assert driver.scheduler.sharing.use_of("west-d0").decode.may == 8


def test_a_share_that_shrinks_ends_nothing_and_starts_nothing() -> None:
    driver = direct()
    for name in "abc":
        driver.arrive(SHORT, name)
    assert driver(e.EngineShared("west-d0", slots=1, prefills=1)) == []
    driver.arrive(SHORT, "d")
    for name in "ab":
        driver(e.FirstToken(name, 1))
        assert starts(driver(e.RequestCompleted(name, 1))) == []
    driver(e.FirstToken("c", 1))
    assert starts(driver(e.RequestCompleted("c", 1))) == ["d"]


def test_prefill_places_are_shared_as_well() -> None:
    driver = Driver(topology(prefills=0))
    driver(e.EngineShared("east-1", slots=8, prefills=1))
    assert starts(driver.arrive(LONG, "a")) == ["a"]
    assert starts(driver.arrive(LONG, "b")) == []
    use = driver.scheduler.sharing.use_of("east-1")
    assert (use.prefill.held, use.prefill.wanted, use.prefill.may) == (1, 2, 1)
    assert use.begun == 2
    assert use.queued_s > 0
    assert starts(driver(e.EngineShared("east-1", slots=8, prefills=2))) == ["b"]


def test_work_of_others_is_ahead_of_ones_own() -> None:
    driver = Driver(topology(prefills=2, decodes=1), policy=None)
    driver(e.EngineShared("west-p0", 8, 8, others_queued_s=4.0), at=10.0)
    view = driver.scheduler.view.engines
    assert view["west-p0"].free_at == 14.0
    assert view["west-p1"].free_at <= 10.0
    (start,) = [x for x in driver.arrive(SHORT, "a") if isinstance(x, c.StartPrefill)]
    assert start.engine == "west-p1"
    driver(e.TimerFired(), at=15.0)
    assert view["west-p0"].free_at <= 15.0, "it was told long ago"


def test_memory_that_others_use_is_not_there() -> None:
    driver = direct()
    driver(e.KvMemoryKnown("west-d0", 3 * SHORT))
    driver.arrive(SHORT, "a")
    driver(e.EngineShared("west-d0", 8, 8, others_kv_tokens=2 * SHORT))
    assert starts(driver.arrive(SHORT, "b")) == []
    assert starts(driver(e.EngineShared("west-d0", 8, 8))) == []  # Told with the next end.
    assert driver.scheduler.sharing.use_of("west-d0").kv_tokens >= SHORT


def seen_s(driver: Driver, *, contested_at: float | None) -> float:
    """What is expected of a prompt, after one that took a second."""
    driver(e.EngineUp("east-1"))
    for number in range(3):
        begin, name = 10.0 * number + 10.0, f"r{number}"
        driver.arrive(LONG, name, at=begin)
        if number == 2 and contested_at is not None:
            shared = e.EngineShared("east-1", 8, 8, others_prefills=1)
            driver(shared, at=begin + contested_at)
        took_s = 1.0 if number < 2 else 3.5
        driver(e.PrefillCompleted(name, 1), at=begin + took_s)
        driver(e.TransferCompleted(name, 1))
        driver(e.FirstToken(name, 1))
        driver(e.RequestCompleted(name, 1))
    return driver.costs.prefill_s("east-1", LONG)


def test_queues_of_others_are_not_learned_from() -> None:
    alone = seen_s(Driver(topology(prefills=0)), contested_at=None)
    assert alone > 1.5
    shared = seen_s(Driver(topology(prefills=0)), contested_at=0.5)
    assert shared == pytest.approx(1.0, rel=0.1)


def test_an_engine_that_has_left_is_no_news() -> None:
    driver = direct()
    assert driver(e.EngineShared("nobody", 1, 1)) == []
    with pytest.raises(CallerError):
        driver.scheduler.sharing.use_of("nobody")
