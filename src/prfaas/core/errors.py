"""One error tree. The class says who is at fault; the message says what to do about it."""

from __future__ import annotations

import errno

import msgspec


class PrfaasError(Exception):
    """Base of every error this product raises on purpose."""


class CallerError(PrfaasError):
    """What we were asked for is wrong: a request, an argument, a file. Asking again is no use."""


class ConfigError(CallerError):
    """A configuration, scenario or profile does not say what it must, or asks for what this machine
    does not have (a port, a file)."""


class PeerError(PrfaasError):
    """Another agent or gateway broke the protocol or is not who it should be."""


class LinkError(PrfaasError):
    """The link between two agents is down, or the line is too slow for the deadline."""


class EngineError(PrfaasError):
    """A vLLM engine failed, refused, or went away."""


class LayoutMismatch(EngineError):
    """Two engines that should exchange KV cache hold it in different layouts."""


class ProcessError(PrfaasError):
    """A process that we start, of whatever kind, did not come up."""


class CapacityError(PrfaasError):
    """A bounded resource of ours (arena slots, queue places, deadline time) ran out."""


class InvariantError(PrfaasError):
    """Our own bookkeeping contradicts itself: a bug, raised by ``check_integrity()``."""


UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for foreign bytes that it cannot decode: malformed, or nested without end."""


def nobody_listens(error: BaseException) -> bool:
    """Whether a connection was refused. That alone says that a process is gone: what is late or
    broken off, and a handshake that failed, says nothing of it."""
    if not isinstance(error, OSError):
        return False
    # Where a name has several addresses, event loops raise one error of all texts, without a code.
    return error.errno == errno.ECONNREFUSED or (
        error.errno is None and f"[Errno {errno.ECONNREFUSED}]" in str(error)
    )
