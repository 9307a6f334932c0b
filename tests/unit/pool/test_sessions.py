"""Sessions of gateways at an agent."""

from __future__ import annotations

import msgspec
import pytest

from prfaas.core.errors import CapacityError
from prfaas.core.gateway_sessions import LAPSES_AFTER_S, EngineUse, Renewal, Use
from prfaas.pool.effects import AbandonReception, ReportLapse, StopExport
from prfaas.pool.events import (
    ExtentReleased,
    GatewayEnded,
    GatewayRenewed,
    ImportClosed,
    ReceptionFailed,
)
from prfaas.pool.sessions import MOST_SESSIONS, Sessions
from prfaas.testing.pool_kit import SLOT, PoolRig

MINE, ITS = "0123456789ab", "ba9876543210"


def renewal(**engines: EngineUse) -> Renewal:
    return Renewal(name="gateway", engines=engines)


def use(held: int, *, begun: int = 0) -> EngineUse:
    places = Use(total=4, held=held, wanted=held, may=4)
    return EngineUse(decode=places, prefill=places, queued_s=held * 1.5, kv_tokens=10, begun=begun)


def test_what_a_silent_gateway_has_here_is_free_after_five_seconds(rig: PoolRig) -> None:
    rig.say(GatewayRenewed(MINE, renewal()))
    rig.say(GatewayRenewed(ITS, renewal()))
    received = rig.accepted(f"{MINE}-r1-1", 2 * SLOT, deadline_s=3000.0)
    arriving = rig.accepted(f"{MINE}-r2-1", SLOT, deadline_s=3000.0)
    other = rig.accepted(f"{ITS}-r3-1", SLOT, deadline_s=3000.0)
    sending = rig.send(f"{MINE}-r4-1", SLOT)
    (sent,) = rig.fill(f"{MINE}-r4-1", (0, SLOT))
    rig.now = LAPSES_AFTER_S - 0.1
    rig.say(GatewayRenewed(ITS, renewal()))
    assert rig.at(LAPSES_AFTER_S - 0.1) == []
    effects = rig.at(LAPSES_AFTER_S)
    assert {e.key for e in effects if isinstance(e, AbandonReception)} == {received, arriving}
    assert [e.transfer_id for e in effects if isinstance(e, StopExport)] == [sending.transfer_id]
    for key in (received, arriving):
        rig.say(ReceptionFailed(key, "abandoned"))
    rig.say(ExtentReleased(sending, sent.slot))  # type: ignore[union-attr]
    counts = rig.pool.snapshot().slots
    assert (counts.held, counts.leased, counts.queued) == (1, 0, 0)
    assert rig.view(other.transfer_id).state == "receiving"


def test_what_is_read_stays_until_it_is_read(rig: PoolRig) -> None:
    rig.say(GatewayRenewed(MINE, renewal()))
    name = f"{MINE}-r1-1"
    rig.begin(name, SLOT)
    rig.fill(name, (0, SLOT))
    rig.open(name, SLOT)
    rig.at(LAPSES_AFTER_S)
    assert rig.pool.snapshot().slots.held == 1
    rig.say(ImportClosed(2, name))
    assert rig.pool.snapshot().slots.held == 0


def test_nothing_begins_for_a_gateway_that_is_gone(rig: PoolRig) -> None:
    rig.say(GatewayRenewed(MINE, renewal()))
    lapse = rig.pool.handle(GatewayEnded(MINE), now=0.0)
    assert not any(isinstance(effect, ReportLapse) for effect in lapse), "it has said so itself"
    assert rig.refused(f"{MINE}-late-1", SLOT).retry is False
    (stop,) = rig.begin(f"{MINE}-later-1", SLOT)
    assert isinstance(stop, StopExport)
    rig.say(GatewayRenewed(MINE, renewal()))  # It was only slow.
    key = rig.accepted(f"{MINE}-new-1", SLOT)
    rig.say(ReceptionFailed(key, "the test is over"))


def test_transfers_of_nobodys_session_end_by_themselves(rig: PoolRig) -> None:
    key = rig.accepted("2f6a-1", SLOT, deadline_s=60.0)
    rig.at(59.0)
    assert rig.view("2f6a-1").state == "receiving"
    rig.at(60.0)
    rig.say(ReceptionFailed(key, "deadline"))
    assert rig.pool.snapshot().slots.held == 0


def test_sessions_are_bounded() -> None:
    sessions = Sessions()
    for number in range(MOST_SESSIONS):
        sessions.renew(f"{number:012d}", renewal(), now=0.0)
    with pytest.raises(CapacityError, match="64 gateways"):
        sessions.renew(MINE, renewal(), now=0.0)
    sessions.renew(f"{0:012d}", renewal(), now=1.0)
    for lapsed in sessions.lapsed(now=LAPSES_AFTER_S):
        sessions.end(lapsed)
    assert len(sessions) == 1
    for number in range(5000):
        name = f"{number:08d}"
        sessions.renew(name, renewal(), now=2.0)
        sessions.end(name)
    assert not sessions.is_gone("00000000-r-1"), "the last are remembered, not all"
    assert sessions.is_gone("00004999-r-1")


def test_each_is_told_what_the_others_have() -> None:
    sessions = Sessions()
    sessions.renew(MINE, renewal(d=use(2)), now=0.0)
    sessions.renew(ITS, renewal(d=use(1), e=use(3)), now=1.0)
    mine = sessions.standing(MINE, now=2.0)
    assert [(g.id, g.silent_s) for g in mine.gateways] == [(MINE, 2.0), (ITS, 1.0)]
    share = mine.engines["d"]
    assert (share.others_decode, share.others_prefills) == (1, 1)
    assert (share.others_queued_s, share.others_kv_tokens) == (1.5, 10)
    assert sessions.standing(ITS, now=2.0).engines["e"].others_decode == 0
    sessions.renew(ITS, renewal(), now=3.0)
    assert sessions.standing(MINE, now=3.0).engines["d"].others_decode == 0


def test_prefills_that_came_and_went_between_renewals_are_told() -> None:
    sessions = Sessions()
    sessions.renew(MINE, renewal(p=use(0)), now=0.0)
    sessions.renew(ITS, renewal(p=use(0, begun=7)), now=0.0)
    assert sessions.standing(MINE, now=0.0).engines["p"].others_prefills == 0
    sessions.renew(ITS, renewal(p=use(0, begun=9)), now=1.0)
    assert sessions.standing(MINE, now=1.0).engines["p"].others_prefills == 2
    sessions.renew(ITS, renewal(p=use(0, begun=9)), now=2.0)
    assert sessions.standing(MINE, now=2.0).engines["p"].others_prefills == 0


@pytest.mark.parametrize(
    "text",
    [
        b"{}",
        b'{"name": ""}',
        b'{"name": "g", "known": 0}',
        b'{"name": "g", "engines": {"d": {}}}',
        b'{"name": "g", "engines": {"d": {"decode": {"total": -1, "held": 0, "wanted": 0,'
        b' "may": 0}, "prefill": {"total": 1, "held": 0, "wanted": 0, "may": 0}}}}',
        b'{"name": "g", "engines": {"d": {"decode": {"total": 1, "held": 0, "wanted": 0, "may": 0},'
        b' "prefill": {"total": 1, "held": 0, "wanted": 0, "may": 0}, "queued_s": -1}}}',
    ],
)
def test_what_is_no_renewal_is_refused(text: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(text, type=Renewal)
