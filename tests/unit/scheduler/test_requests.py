"""Requests move where the transition table leads, and nowhere else."""

from __future__ import annotations

from math import inf

import pytest

from prfaas.core.errors import InvariantError
from prfaas.scheduler.events import RequestArrived
from prfaas.scheduler.lifecycle import TABLE, Action, State, Trigger
from prfaas.scheduler.requests import Requests
from prfaas.scheduler.state import Record
from prfaas.scheduler.timers import TimerKind


def a_request(requests: Requests) -> Record:
    record = Record(RequestArrived("r", 100, 10), 0.0)
    requests.records["r"] = record
    return record


def test_a_trigger_runs_the_action_of_its_row_or_nothing() -> None:
    requests, ran = Requests(), []
    requests.bind({action: lambda record, why, a=action: ran.append((a, why)) for action in Action})
    record = a_request(requests)
    requests.trigger(record, Trigger.ROUTED, "why")
    requests.trigger(record, Trigger.SLOT_FREED, "late news")
    assert ran == [(Action.ROUTE, "why")]


def test_an_action_without_a_handler_is_noticed_before_the_first_event() -> None:
    with pytest.raises(KeyError):
        Requests().bind({})


def test_a_step_that_the_table_does_not_list_is_refused() -> None:
    requests = Requests()
    record = a_request(requests)
    with pytest.raises(InvariantError, match="ARRIVED -> SENDING"):
        requests.move(record, State.SENDING)


def test_parked_requests_are_known_as_such_and_ended_ones_are_gone() -> None:
    requests = Requests()
    record = a_request(requests)
    requests.move(record, State.PARKED)
    assert list(requests.parked) == ["r"]
    requests.move(record, State.FAILED)
    assert not requests.parked
    assert not requests.records


def test_a_timer_of_an_earlier_attempt_asks_for_no_alarm() -> None:
    requests = Requests()
    record = a_request(requests)
    requests.timers.add(5.0, TimerKind.ATTEMPT, "r", 1)
    requests.timers.add(9.0, TimerKind.DEADLINE, "r")
    requests.timers.add(inf, TimerKind.DEADLINE, "r")
    record.attempt = 2
    assert requests.timers.alarm() == 9.0


def test_every_row_of_the_table_has_a_handler_once_bound() -> None:
    requests = Requests()
    requests.bind({action: lambda record, why: None for action in Action})
    assert all(requests.handler(*key) is not None for key in TABLE)
    assert requests.handler(State.COMPLETED, Trigger.ROUTED) is None
