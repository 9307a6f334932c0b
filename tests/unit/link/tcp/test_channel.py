"""A connection, plain or TLS: the same words for "not now", "gone" and "all of it"."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from prfaas.link.tcp.channel import Channel
from prfaas.tls import authority
from prfaas.tls.context import client_context, server_context


@pytest.fixture(params=["plain", "tls"])
def ends(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Channel, Channel]]:
    near, far = socket.socketpair()
    if request.param == "tls":
        authority.create_authority(tmp_path)
        held: list[ssl.SSLSocket] = []
        context = server_context(authority.issue(tmp_path, "west"))
        thread = threading.Thread(
            target=lambda: held.append(context.wrap_socket(far, server_side=True))
        )
        thread.start()
        near = client_context(authority.issue(tmp_path, "east")).wrap_socket(near)
        thread.join()
        far = held[0]
    channels = Channel(near), Channel(far)
    yield channels
    for channel in channels:
        channel.close()


def test_nothing_now_is_told_from_gone(ends: tuple[Channel, Channel]) -> None:
    near, far = ends
    memory = memoryview(bytearray(100))
    assert far.recv_into(memory) is None
    assert near.send([memoryview(b"words")]) == 5
    assert far.recv_into(memory) == 5
    assert bytes(memory[:5]) == b"words"
    near.hang_up()
    assert far.recv_into(memory) == 0


def test_a_full_socket_takes_no_more(ends: tuple[Channel, Channel]) -> None:
    near, far = ends
    block, sent = memoryview(bytes(1 << 16)), 0
    while (count := near.send([block])) is not None:
        sent += count
    assert sent > 0
    memory, seen = memoryview(bytearray(1 << 20)), 0
    while (count := far.recv_into(memory)) is not None:
        seen += count
    # TLS has a record under way: the next call sends the same bytes, and finishes it.
    assert sent <= seen <= sent + 16384


def test_all_records_that_are_there_are_read_at_once(ends: tuple[Channel, Channel]) -> None:
    near, far = ends
    for _ in range(3):
        near.send([memoryview(b"x" * 1000)])
    assert far.recv_into(memoryview(bytearray(5000))) == 3000
