"""What clients are told."""

from __future__ import annotations

import pytest

from prfaas.gateway.openai_errors import failed_request
from prfaas.scheduler.commands import ErrorKind


@pytest.mark.parametrize(
    ("kind", "status", "headers"),
    [
        (ErrorKind.OVERLOADED, 429, {"Retry-After": "4"}),
        (ErrorKind.UNAVAILABLE, 503, {"Retry-After": "1"}),
        (ErrorKind.DEADLINE, 504, {}),
        (ErrorKind.ENGINE, 502, {}),
    ],
)
def test_status_and_headers(kind: ErrorKind, status: int, headers: dict[str, str]) -> None:
    error = failed_request(kind, "why", 3.2)
    assert (error.status, error.headers) == (status, headers)
