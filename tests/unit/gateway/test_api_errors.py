"""Each answer that is an error says whose fault it is, by its type and by its status."""

from __future__ import annotations

import pytest

from prfaas.core.errors import CallerError, CapacityError, EngineError, InvariantError, PrfaasError
from prfaas.gateway.api_errors import (
    ApiError,
    DeadlinePassed,
    EngineFailed,
    GatewayBug,
    RequestRefused,
    ServiceUnavailable,
    TooManyRequests,
    failed_request,
)
from prfaas.scheduler.commands import ErrorKind, FailRequest


@pytest.mark.parametrize(
    ("error", "status", "at_fault"),
    [
        (RequestRefused(400, "m"), 400, CallerError),
        (TooManyRequests("m", retry_after_s=0), 429, CapacityError),
        (ServiceUnavailable("m"), 503, CapacityError),
        (DeadlinePassed("m"), 504, CapacityError),
        (EngineFailed("m"), 502, EngineError),
        (GatewayBug(), 500, InvariantError),
    ],
)
def test_the_type_is_the_one_at_fault(
    error: ApiError, status: int, at_fault: type[PrfaasError]
) -> None:
    assert error.status == status
    others = {CallerError, CapacityError, EngineError, InvariantError} - {at_fault}
    assert isinstance(error, at_fault)
    assert not isinstance(error, tuple(others))


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (ErrorKind.OVERLOADED, 429),
        (ErrorKind.FULL, 429),
        (ErrorKind.DEADLINE, 504),
        (ErrorKind.UNAVAILABLE, 503),
        (ErrorKind.ENGINE, 502),
    ],
)
def test_what_the_scheduler_gives_up_has_its_status(kind: ErrorKind, status: int) -> None:
    assert failed_request(FailRequest("r", kind, "m")).status == status


def test_an_engines_own_time_to_come_back_is_passed_on_in_whole_seconds() -> None:
    told = failed_request(FailRequest("r", ErrorKind.FULL, "m", 2.5))
    assert told.headers == {"Retry-After": "3"}


def test_only_what_may_be_asked_again_says_when() -> None:
    assert failed_request(FailRequest("r", ErrorKind.OVERLOADED, "m", 3.2)).headers == {
        "Retry-After": "4"
    }
    assert TooManyRequests("m", retry_after_s=7).headers == {"Retry-After": "7"}
    assert ServiceUnavailable("m").headers == {"Retry-After": "1"}
    assert EngineFailed("m").headers == {}
