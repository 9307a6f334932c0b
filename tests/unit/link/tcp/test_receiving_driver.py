"""Receiving from all peers: whose transfer is whose."""

from __future__ import annotations

from prfaas.link.api import TransferKey, TransferOffer
from prfaas.link.protocol.frames import Header, Kind
from prfaas.link.tcp.config import Plaintext, TcpLinkConfig
from prfaas.link.tcp.link_test_memory import LINK_TEST_LAYOUT
from prfaas.link.tcp.receiving_driver import ReceivingDriver
from prfaas.testing.link_ends import FakeConnection
from prfaas.testing.link_kit import MemorySink

CONFIG = TcpLinkConfig(name="west", security=Plaintext())


def test_a_link_test_hides_nobody_elses_transfer() -> None:
    sink, key = MemorySink(), TransferKey("t", 0, 1)
    receivers, connection = ReceivingDriver(CONFIG, sink), FakeConnection()
    end = receivers.end
    for peer, layout, total in (("north", LINK_TEST_LAYOUT, 8), ("east", "layout", 4)):
        offer = TransferOffer(key, layout, 0, 256, total, 60.0)
        session = end.opened(peer, 1, 1, connection)
        transfer = end.offer(session, connection, 1, offer, now=0.0)
        assert transfer is not None
        end.answered(transfer, receivers.ask(peer, offer))
        claim = end.claim(session, connection, Header(Kind.DATA, 1, 4, 1, 0, 0))
        assert claim is not None
        end.settle(claim, connection, intact=True)
    receivers.close()
    assert sink.stored_ranges == [(key, 0, 4)]
    assert sink.outcomes == {key: "complete"}
    assert sink.peers == ["east"]
