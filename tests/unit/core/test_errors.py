"""Which failures say that nobody is there."""

from __future__ import annotations

import errno
import ssl

import aiohttp
import pytest

from prfaas.core.errors import nobody_listens

KEY = aiohttp.client_reqrep.ConnectionKey("h", 1, False, True, None, None, None)


@pytest.mark.parametrize(
    ("error", "says_so"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), True),
        (
            aiohttp.ClientConnectorError(KEY, ConnectionRefusedError(errno.ECONNREFUSED, "no")),
            True,
        ),
        (
            OSError(
                "Multiple exceptions: [Errno 111] Connect call failed ('::1', 1, 0, 0), "
                "[Errno 111] Connect call failed ('127.0.0.1', 1)"
            ),
            True,
        ),
        (ConnectionResetError(errno.ECONNRESET, "reset during the handshake"), False),
        (aiohttp.ClientConnectorError(KEY, OSError(errno.ECONNABORTED, "broke off")), False),
        (ssl.SSLCertVerificationError("certificate has expired"), False),
        (OSError(errno.EMFILE, "too many open files"), False),
        (OSError(errno.EHOSTUNREACH, "no route to host"), False),
        (TimeoutError(), False),
        (ValueError("[Errno 111]"), False),
    ],
)
def test_only_a_refused_connection_says_that_nobody_listens(
    error: Exception, says_so: bool
) -> None:
    assert nobody_listens(error) is says_so
