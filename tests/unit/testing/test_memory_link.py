"""The in-memory link keeps the promises of the real one."""

from __future__ import annotations

import pytest

from prfaas.core.errors import LinkError
from prfaas.link.api import Refusal, TransferKey, TransferOffer
from prfaas.testing.link_kit import MemorySink
from prfaas.testing.memory_link import MemoryLink, MemoryNetwork, MemoryTransfer

KEY = TransferKey("t", 0, 1)


class Rig:
    def __init__(self) -> None:
        self.network = MemoryNetwork(chunk_bytes=100)
        self.sink = MemorySink(piece_bytes=64)
        self.west = self.network.link("west", self.sink)
        self.east: MemoryLink = self.network.link("east", MemorySink())
        self.said: list[str] = []
        self.released = 0

    def send(self, data: bytes) -> MemoryTransfer:
        handle = self.east.send(
            "west",
            TransferOffer(KEY, "layout", 0, 256, len(data), 10.0),
            on_complete=lambda: self.said.append("complete"),
            on_failed=self.said.append,
        )
        handle.add(0, memoryview(data), self._released)
        return handle

    def _released(self) -> None:
        self.released += 1


def test_nothing_moves_until_pumped_and_then_all_of_it() -> None:
    rig = Rig()
    data = bytes(range(250))
    rig.send(data)
    assert rig.sink.receptions == {}
    assert rig.network.pump(1) == 1
    assert rig.east.states()[0].queued_bytes == 150
    rig.network.pump()
    assert rig.said == [rig.sink.outcome(KEY)] == ["complete"]
    assert rig.sink.receptions[KEY].data == data
    assert rig.released == 1
    assert rig.east.states()[0].acknowledged_bytes_total == 250


def test_faults_reach_both_sides_once() -> None:
    rig = Rig()
    handle = rig.send(bytes(250))
    rig.network.hold("east", "west")
    assert rig.network.pump() == 0
    rig.network.release("east", "west")
    rig.network.pump(1)
    rig.network.fail("t", "line cut")
    handle.cancel("too late")
    assert rig.said == [rig.sink.outcome(KEY)] == ["line cut"]
    assert rig.released == 1


def test_refusals_and_strangers() -> None:
    rig = Rig()
    rig.sink.answers = [Refusal("full", retry=True), Refusal("never")]
    rig.send(bytes(10))
    rig.network.pump()
    assert rig.said == []
    rig.network.pump()
    assert rig.said == ["never"]
    offer = TransferOffer(KEY, "layout", 0, 256, 1, 10.0)
    with pytest.raises(LinkError, match="no peer 'north'"):
        rig.east.send("north", offer, on_complete=lambda: None, on_failed=lambda _: None)
    rig.send(bytes(10))
    rig.east.close()
    assert rig.said == ["never", "link closed"]
