"""What goes wrong between the gateway and an engine or agent, whose fault it is, what may help.

LocalFault          we have run out of something         wait, blame nobody
EngineUnreachable   it never had the request             elsewhere, at once
EngineLost          it went away while it had it         elsewhere, but not for ever: the request
                                                         may be what it died of
EngineFull          it has no place for the request      an idle engine, or later
AnsweredFailure     it answered 5xx                      elsewhere; see `faults` for one that dies
EngineError         it failed or answers nonsense        elsewhere
(a 4xx answer)      the request is wrong                 nowhere: it is the client's answer
"""

from __future__ import annotations

import errno
import math
import os
import time
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from prfaas.core.errors import UNREADABLE, CapacityError, EngineError, PrfaasError
from prfaas.gateway.http_answer import CannotConnect, ConnectionBroke, NotHttp

CONNECTION_ERRORS = (NotHttp, OSError)
"""All that is raised where an HTTP exchange could not be had or broke off."""
_LOCAL = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL})
"""No descriptors, memory, buffers, or local ports left."""
_LOST = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED})
_LONGEST_RETRY_S = 3600.0
_LONGEST_MESSAGE = 4096
_LONGEST_ERROR = 1024 * 1024
"""Bytes of a body that is read for what went wrong."""


class LocalFault(CapacityError):
    """This process has run out of something of its own (descriptors, ports, memory)."""


class EngineUnreachable(EngineError):
    """No connection to the engine can be made: it has not seen the request."""


class EngineLost(EngineError):
    """The engine went away while it had the request."""


class EngineFull(EngineError):
    """The engine has no place for the request now. ``retry_after_s``: when it may have one."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class AnsweredFailure(EngineError):
    """The engine answered that it has failed."""


class CannotRender(EngineError):
    """The server has no render endpoint (started without ``--enable-scale-out``)."""


def is_local(error: BaseException) -> bool:
    """Whether it is this process that has run out of something."""
    return isinstance(error, OSError) and error.errno in _LOCAL


def is_lost(error: BaseException) -> bool:
    """Whether a connection that was there broke."""
    if isinstance(error, CannotConnect):
        return False
    if isinstance(error, ConnectionBroke):
        return True
    return isinstance(error, OSError) and error.errno in _LOST


def engine_error(engine: str, error: BaseException) -> PrfaasError:
    """What one of `CONNECTION_ERRORS` says of this engine, or of ourselves."""
    if is_local(error):
        return LocalFault(f"the gateway cannot reach {engine}: {describe(error)}")
    message = f"{engine}: {describe(error)}"
    if isinstance(error, CannotConnect):
        return EngineUnreachable(message)
    return EngineLost(message) if is_lost(error) else EngineError(message)


def refusal(engine: str, status: int, retry_after: str | None, body: bytes) -> EngineError | None:
    """What an answer says that is no success, where not the request is wrong; None where it is.

    ``retry_after``: the header. An engine is full that answers 429, or 503 with such a header.
    """
    message = f"{engine} answered {status}: {error_message(body)}"
    if status == 429 or (status == 503 and retry_after is not None):
        return EngineFull(message, retry_after_s=_retry_after_s(retry_after))
    if status >= 500:
        return AnsweredFailure(message)
    # 401 and 403 are about the gateway's key for the engine: no client can mend that.
    return None if 400 <= status < 500 and status not in (401, 403) else EngineError(message)


def _retry_after_s(given: str | None) -> float:
    """Seconds of the header, or until its date. Who says none has a place whenever an answer of its
    ends: 1."""
    try:
        seconds = float(given or "1")
    except ValueError:
        seconds = _until(given or "")
    return min(max(seconds, 0.0), _LONGEST_RETRY_S) if math.isfinite(seconds) else 1.0


def _until(date: str) -> float:
    try:
        return parsedate_to_datetime(date).timestamp() - time.time()
    except (ValueError, OverflowError):
        return math.nan


def describe(error: BaseException) -> str:
    """One line for a connection error, never empty, and without addresses: clients read it, and
    whoever asks `/ready`."""
    if isinstance(error, CannotConnect):
        code = error.errno or 0  # Of TLS, or of a name that is not known, it is no system error.
        return f"cannot connect: {os.strerror(code)}" if code > 1 else "cannot connect"
    if isinstance(error, ConnectionRefusedError):
        return os.strerror(errno.ECONNREFUSED)
    if isinstance(error, TimeoutError):
        return "timed out"
    said = getattr(error, "strerror", None) or str(error)
    if "Connect call failed" in said:  # asyncio's words, with each address that it has tried.
        tried = getattr(error, "errno", None)
        return os.strerror(tried) if tried else "cannot connect"
    return said or type(error).__name__


def error_status(body: bytes) -> int:
    """The HTTP status that an engine's error body stands for; 500 where it says none."""
    try:
        code = _read(body)["error"]["code"]
    except (KeyError, TypeError, *UNREADABLE):
        return 500
    return code if isinstance(code, int) else 500


def error_message(body: bytes) -> str:
    """The message in an engine's error body, or the start of whatever it is. It may quote what a
    client has sent, and is kept for a while."""
    try:
        found = _read(body)
        return str(found["error"]["message"])[:_LONGEST_MESSAGE]
    except (KeyError, TypeError, *UNREADABLE):
        return body[:200].decode(errors="replace") or "no message"


def _read(body: bytes) -> Any:
    """Raises one of UNREADABLE, also for what is long."""
    if len(body) > _LONGEST_ERROR:
        raise msgspec.DecodeError("long")
    return msgspec.json.decode(body)
