"""The kit's own promises: what the proxy does to connections, what the sink remembers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from prfaas.core.addresses import Address, parse_address
from prfaas.core.errors import LinkError
from prfaas.testing.link_ends import an_offer
from prfaas.testing.link_kit import FaultyProxy, MemorySink


@pytest.fixture
def through() -> Iterator[tuple[FaultyProxy, socket.socket, socket.socket]]:
    """A proxy, and the two ends of a connection through it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        proxy = FaultyProxy(str(Address(*server.getsockname())))
        with (
            socket.create_connection(parse_address(proxy.address), timeout=20) as near,
            server.accept()[0] as far,
        ):
            far.settimeout(20)
            yield proxy, near, far
        proxy.close()


Through = tuple[FaultyProxy, socket.socket, socket.socket]


def test_bytes_pass_both_ways(through: Through) -> None:
    _, near, far = through
    near.sendall(b"there")
    assert far.recv(5, socket.MSG_WAITALL) == b"there"
    far.sendall(b"back")
    assert near.recv(4, socket.MSG_WAITALL) == b"back"


def test_a_killed_connection_ends_at_both_ends(through: Through) -> None:
    proxy, near, far = through
    near.sendall(b"x")
    assert far.recv(1) == b"x"
    assert proxy.kill_one()
    assert near.recv(1) == far.recv(1) == b""
    assert not proxy.kill_one()
    assert (proxy.killed, proxy.open_connections) == (1, 0)


def test_one_bit_is_flipped_on_the_way_there(through: Through) -> None:
    proxy, near, far = through
    proxy.flip_every_bytes = 64
    near.sendall(bytes(64))
    damaged = far.recv(64, socket.MSG_WAITALL)
    assert sum(byte.bit_count() for byte in damaged) == 1
    far.sendall(bytes(64))
    assert near.recv(64, socket.MSG_WAITALL) == bytes(64)


def test_what_is_held_passes_once_it_is_released(through: Through) -> None:
    proxy, near, far = through
    proxy.hold()
    near.sendall(b"x")
    far.setblocking(False)
    with pytest.raises(BlockingIOError):
        far.recv(1)
    far.settimeout(20)
    proxy.release()
    assert far.recv(1) == b"x"


def test_the_sink_keeps_bytes_and_outcomes() -> None:
    sink, offer = MemorySink(piece_bytes=30), an_offer(total=100)
    reception = sink.offered("east", offer)
    views = reception.views(10, 70)  # type: ignore[union-attr]
    assert [len(view) for view in views] == [30, 30, 10]
    views[0][:] = b"a" * 30
    assert bytes(sink.receptions[offer.key].data[10:40]) == b"a" * 30
    thread = threading.Thread(target=lambda: sink.stored(offer.key, 10, 70))
    thread.start()
    sink.wait_stored(70)
    thread.join()
    with pytest.raises(LinkError, match="fewer than 71 bytes"):
        sink.wait_stored(71, timeout_s=0.0)
    sink.completed(offer.key)
    assert sink.outcome(offer.key) == "complete"
    with pytest.raises(AssertionError, match="ended twice"):
        sink.failed(offer.key, "late")
