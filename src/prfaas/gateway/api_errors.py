"""Answers other than success; `dialects` says them in the API of the request.

The type says who is at fault: each answer is also one of the classes of `prfaas.core.errors`.
"""

from __future__ import annotations

from math import ceil

from prfaas.core.errors import CallerError, CapacityError, EngineError, InvariantError, PrfaasError
from prfaas.scheduler.commands import ErrorKind, FailRequest


class ApiError(PrfaasError):
    """An answer other than success, decided by the gateway itself. The client is at fault where
    ``status`` is below 500."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str,
        param: str | None = None,
        retry_after_s: int | None = None,
        cause: str | None = None,
    ) -> None:
        super().__init__(message)
        self.cause = cause
        """Which rule for tenants was broken, for the record of refusals."""
        self.status = status
        self.kind = kind
        self.param = param
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer beside its content type."""
        return {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}


class RequestRefused(ApiError, CallerError):
    """4xx: the request is wrong, whoever it is sent to."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        cause: str | None = None,
    ) -> None:
        super().__init__(status, message, kind=kind, param=param, cause=cause)


class TooManyRequests(ApiError, CapacityError):
    """429: what there is is full; the same request may be served after ``retry_after_s``."""

    def __init__(self, message: str, *, retry_after_s: float, cause: str | None = None) -> None:
        super().__init__(429, message, kind="rate_limit_error", cause=cause)
        self.wait(retry_after_s)

    def wait(self, seconds: float) -> None:
        """So long at least, also for another reason."""
        self.retry_after_s = max(1, ceil(seconds), self.retry_after_s or 0)


class ServiceUnavailable(ApiError, CapacityError):
    """503: nothing that could answer is up."""

    def __init__(self, message: str) -> None:
        # Nobody knows when something is; within a second or so after that it is seen here, and
        # another gateway may answer at once.
        super().__init__(503, message, kind="service_unavailable_error", retry_after_s=1)


class DeadlinePassed(ApiError, CapacityError):
    """504: the time that a request may take ran out."""

    def __init__(self, message: str) -> None:
        super().__init__(504, message, kind="timeout_error")


class EngineFailed(ApiError, EngineError):
    """502: an engine broke off, or every attempt failed."""

    def __init__(self, message: str) -> None:
        super().__init__(502, message, kind="engine_error")


class GatewayBug(ApiError, InvariantError):
    """500: our own mistake; the log has its traceback."""

    def __init__(self) -> None:
        super().__init__(500, "internal error of the gateway", kind="internal_error")


def failed_request(command: FailRequest) -> ApiError:
    """What the client is told when the scheduler gives a request up."""
    kind, message = command.kind, command.message
    if kind in (ErrorKind.FULL, ErrorKind.OVERLOADED):
        # Engines that do not say when have room whenever an answer of theirs ends.
        return TooManyRequests(message, retry_after_s=command.retry_after_s or 0)
    if kind is ErrorKind.DEADLINE:
        return DeadlinePassed(message)
    if kind is ErrorKind.UNAVAILABLE:
        return ServiceUnavailable(message)
    return EngineFailed(message)
