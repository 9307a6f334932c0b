"""The way to an engine through its agent, where nobody wants it any more."""

from __future__ import annotations

import asyncio
import gc
from typing import cast

import pytest

from prfaas.core.addresses import Address
from prfaas.gateway.tunnel import _Asking
from prfaas.tls.context import PeerContext


async def test_a_tunnel_that_nobody_waits_for_any_more_is_no_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its request was cancelled while it was made."""
    answered: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    asking = _Asking(cast(PeerContext, None), Address("127.0.0.1", 1), answered)
    asking.connection_lost(None)
    del asking, answered
    gc.collect()
    assert "never retrieved" not in caplog.text
