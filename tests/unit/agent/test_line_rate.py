"""An agent measures a line over its own link, one measurement at a time."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from prfaas.agent import line_rate
from prfaas.agent.line_rate import LineRates
from prfaas.core.errors import LinkError
from prfaas.link.tcp.config import PeerConfig, Plaintext, TcpLinkConfig
from prfaas.link.tcp.link import TcpLink
from prfaas.link.tcp.link_test import SilentSink

PACE = 4e6


async def connected(link: TcpLink) -> None:
    async with asyncio.timeout(30):
        while not any(state.connections for state in link.states()):  # noqa: ASYNC110 - threads
            await asyncio.sleep(0.01)


async def test_a_paced_line_is_measured_at_its_pace() -> None:
    far = TcpLink(TcpLinkConfig(name="west", security=Plaintext()), SilentSink())
    peers = {
        "west": PeerConfig(address=far.address, rate_bytes_per_s=PACE, connections=2),
        "nobody": PeerConfig(address="127.0.0.1:9"),
    }
    near = TcpLink(TcpLinkConfig(name="east", security=Plaintext(), peers=peers), SilentSink())
    rates = LineRates(near)
    try:
        await connected(near)
        first, second = await asyncio.gather(rates.measure("west", 0.5), rates.measure("west", 0.5))
        assert second is None  # one at a time
        assert first is not None
        assert 0 < first.goodput_bytes_per_s < 2 * PACE
        assert (first.peer, first.limit_bytes_per_s) == ("west", PACE)
        assert first.connections >= 1
        # The far end forgets the test, and the line is free for another.
        assert await rates.measure("west", 0.1) is not None
        with pytest.raises(LinkError, match="no connection to 'nobody'"):
            await rates.measure("nobody", 0.1)
        with pytest.raises(LinkError, match="sends nothing to 'north'; it sends to nobody, west"):
            await rates.measure("north", 0.1)
    finally:
        await asyncio.to_thread(near.close)
        await asyncio.to_thread(far.close)


class Swallowing:
    """A link with a connection over which nothing comes back."""

    acknowledged_bytes = 0

    def states(self) -> list[Any]:
        return [SimpleNamespace(peer="west", connections=1)]

    def send(self, *_: object, **__: object) -> Swallowing:
        return self

    def add(self, *_: object) -> None:
        pass

    def cancel(self, _reason: str) -> None:
        pass


async def test_a_line_that_nothing_crosses_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_rate, "_FIRST_BYTES_S", 0.05)
    with pytest.raises(LinkError, match=r"no byte was acknowledged within 0\.05 s"):
        await LineRates(Swallowing()).measure("west", 0.1)  # type: ignore[arg-type]
