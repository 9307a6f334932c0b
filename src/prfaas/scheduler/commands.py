"""What to do: the only output of the scheduler. Frozen, in the imperative.

A driver carries commands out in order and reports what came of them as events. Every command of a
request names its ``attempt``; what the driver later reports about it carries the same number.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from prfaas.core.deployment import EngineRole
from prfaas.policies.api import Route


class ErrorKind(StrEnum):
    """Why a request failed, and who is at fault."""

    DEADLINE = "deadline"
    """Its deadline passed before the first token."""
    OVERLOADED = "overloaded"
    """Too much is asked for to have its first token out in time; it was not begun."""
    UNAVAILABLE = "unavailable"
    """No engine that could answer is up, and none came back in time."""
    ENGINE = "engine"
    """A decode engine broke off after the first token, or every attempt failed."""
    FULL = "full"
    """Every engine that could answer has no place for it now."""


class Command(msgspec.Struct, frozen=True, gc=False, tag=True):
    """Base; as JSON each carries its type's name under ``type``."""


class StartPrefill(Command, frozen=True, gc=False):
    """Prefill on ``engine`` and hand tokens [from_token, to_token) over as ``transfer_id``.

    ``exact``: they end inside a block, so prefill them alone: the states stand where a prompt ends.
    Report PrefillCompleted or PrefillFailed, and TransferCompleted or TransferFailed.
    """

    request_id: str
    attempt: int
    engine: str
    decode_engine: str
    transfer_id: str
    from_token: int
    to_token: int
    route: Route
    reason: str
    exact: bool = False


class StartDecode(Command, frozen=True, gc=False):
    """Answer on ``engine``, from the transfer if there is one, else from the prompt alone.

    Report FirstToken, then RequestCompleted; or DecodeFailed. ``transfer_id`` may stem from an
    earlier attempt: a retry uses the same bytes again, so keep them until the first token.
    """

    request_id: str
    attempt: int
    engine: str
    transfer_id: str | None
    from_token: int
    to_token: int
    route: Route
    reason: str


class CancelPrefill(Command, frozen=True, gc=False):
    """Stop the prefill of this attempt; report nothing. Harmless where it has ended."""

    request_id: str
    attempt: int
    engine: str


class CancelTransfer(Command, frozen=True, gc=False):
    """Drop the transfer on both sides; report nothing. Harmless where it has ended."""

    request_id: str
    attempt: int
    transfer_id: str
    prefill_engine: str
    decode_engine: str


class CancelDecode(Command, frozen=True, gc=False):
    """Stop the answer of this attempt; report nothing. Harmless where it has ended."""

    request_id: str
    attempt: int
    engine: str


class FailRequest(Command, frozen=True, gc=False):
    """Tell the client. The request is over; cancel commands for what still ran came before.

    ``retry_after_s``: when it is worth asking again, where that is known.
    """

    request_id: str
    kind: ErrorKind
    message: str
    retry_after_s: float | None = None


class ChangeRole(Command, frozen=True, gc=False):
    """Record that the scheduler now gives ``engine`` work of ``role``. Nothing to carry out
    for engines that can do both. ``dry_run``: it would, and does not."""

    engine: str
    role: EngineRole
    reason: str
    dry_run: bool = False


class ReportDrained(Command, frozen=True, gc=False):
    """Tell the operator that a cordoned ``engine`` has nothing left to do for this scheduler."""

    engine: str


class SetTimer(Command, frozen=True, gc=False):
    """Call `Scheduler.handle` with TimerFired at this time. Replaces every earlier SetTimer."""

    at: float


AnyCommand = (
    StartPrefill
    | StartDecode
    | CancelPrefill
    | CancelTransfer
    | CancelDecode
    | FailRequest
    | ChangeRole
    | ReportDrained
    | SetTimer
)
