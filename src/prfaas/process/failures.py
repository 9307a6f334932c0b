"""Why a server was not reached, for people."""

from __future__ import annotations

import os
import socket
import ssl


def in_words(error: BaseException) -> str:
    """What an HTTP client's error says: the system's own words where it is the system's, such as
    "Connection refused". A timeout has none of its own."""
    inner = getattr(error, "os_error", None)
    if isinstance(inner, socket.gaierror):
        return inner.strerror or "the name is not known"
    if isinstance(inner, OSError) and inner.errno and not isinstance(inner, ssl.SSLError):
        return os.strerror(inner.errno)
    if isinstance(error, TimeoutError):
        return str(error) or "no answer in time"
    return str(error) or type(error).__name__
