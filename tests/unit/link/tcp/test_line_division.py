"""Lines that end at this agent: who is spoken to, and who is cut off."""

from __future__ import annotations

import time
from contextlib import nullcontext

from prfaas.link.protocol.frames import Kind
from prfaas.link.protocol.line_share import Demand, Grant
from prfaas.link.tcp.config import Plaintext, SharedLine, TcpLinkConfig
from prfaas.link.tcp.line_division import LineDivision
from prfaas.testing.link_ends import FakeConnection

RATE = 4000.0
SENDERS = ("a", "b", "c", "west")


def division(receivers: tuple[str, ...] = ("west",)) -> LineDivision:
    line = SharedLine(rate_bytes_per_s=RATE, senders=SENDERS, receivers=receivers)
    config = TcpLinkConfig(name="west", security=Plaintext(), lines=(line,))
    return LineDivision(config, nullcontext())


def demand(serial: int, need: int = 4000) -> Demand:
    return Demand(1, serial, serial, need, 0, 0)


def test_a_demand_is_answered_over_the_newest_connection() -> None:
    lines, old, new = division(), FakeConnection(), FakeConnection()
    now = time.monotonic()
    lines.connected("a", old)
    lines.connected("a", new)
    lines.demanded("a", demand(1), now=now)
    assert (old.said, new.said) == ([], [Kind.GRANT])
    lines.disconnected("a", new, now=now)
    lines.demanded("a", demand(2), now=now)
    assert old.said == [Kind.GRANT]


def test_strangers_are_not_answered_and_who_cannot_be_spoken_to_waits() -> None:
    lines, connection = division(), FakeConnection()
    lines.connected("stranger", connection)
    lines.demanded("stranger", demand(1), now=time.monotonic())
    lines.demanded("a", demand(1), now=time.monotonic())
    assert connection.said == []


def test_what_this_agent_sends_itself_is_granted_here() -> None:
    lines, own = division(), list[Grant]()

    def take(grant: Grant, *, now: float) -> None:
        own.append(grant)

    lines.granted_here = take
    lines.demanded("west", demand(1), now=time.monotonic())
    assert [grant.asked_at_us for grant in own] == [1]


def lent_to_a(lines: LineDivision, *, seconds: float) -> int:
    """What ``a`` ends with that needs everything, alone on the line for so long."""
    granted: list[Grant] = []
    connection = FakeConnection()

    def take(grant: Grant, *, now: float) -> None:
        granted.append(grant)

    lines.granted_here = take
    lines.connected("a", connection)
    now = time.monotonic() + 1.0
    for tick in range(int(seconds * 10)):
        lines.tick(now=now + tick / 10)
        held = granted[-1].serial if granted else 0
        divider = granted[-1].divider if granted else 0
        own = Demand(1, tick + 1, int((now + tick / 10) * 1e6), 4000, held, divider)
        lines.demanded("west", own, now=now + tick / 10)
    return granted[-1].limit_bytes_per_s


def test_what_those_have_that_are_cut_off_is_lent_where_this_end_is_the_only_one() -> None:
    # ``b`` and ``c`` never came; ``a`` has a connection, and says nothing.
    assert lent_to_a(division(), seconds=3.0) == 4000 - 1000 - 2 * 10
    assert lent_to_a(division(("west", "far")), seconds=3.0) == 1000
