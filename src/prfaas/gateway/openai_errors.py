"""Errors as OpenAI's clients expect them: ``{"error": {message, type, param, code}}``."""

from __future__ import annotations

from math import ceil

import msgspec

from prfaas.core.errors import CallerError
from prfaas.scheduler.commands import ErrorKind


class ApiError(CallerError):
    """An answer other than success, decided by the gateway itself."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param
        self.retry_after_s = retry_after_s

    @property
    def body(self) -> bytes:
        """The JSON body."""
        error = {
            "message": str(self),
            "type": self.kind,
            "param": self.param,
            "code": self.status,
        }
        return msgspec.json.encode({"error": error})

    @property
    def event(self) -> bytes:
        """The same as the last event of a stream that broke off."""
        return b"data: " + self.body + b"\n\n"

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}


def unavailable(message: str) -> ApiError:
    return ApiError(503, message, kind="service_unavailable_error", retry_after_s=1)


def too_many_requests() -> ApiError:
    return ApiError(429, "too many requests in flight", kind="rate_limit_error", retry_after_s=1)


def failed_request(kind: ErrorKind, message: str, retry_after_s: float | None = None) -> ApiError:
    """What the client is told when the scheduler gives a request up."""
    if kind is ErrorKind.OVERLOADED:
        wait_s = None if retry_after_s is None else ceil(retry_after_s)
        return ApiError(429, message, kind="rate_limit_error", retry_after_s=wait_s)
    if kind is ErrorKind.DEADLINE:
        return ApiError(504, message, kind="timeout_error")
    if kind is ErrorKind.UNAVAILABLE:
        return unavailable(message)
    return ApiError(502, message, kind="engine_error")
