"""Records that a peer sends, counted as OpenSSL tells of them."""

from __future__ import annotations

import gc
import ssl
from pathlib import Path
from weakref import ref

import pytest

from prfaas.tls import records
from prfaas.tls.authority import create_authority, issue
from prfaas.tls.front import front_context


class _Pair:
    """A server that is watched, and a client, in one process."""

    def __init__(self, at: Path) -> None:
        create_authority(at)
        own = issue(at, "localhost")
        trusts = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trusts.check_hostname, trusts.verify_mode = False, ssl.CERT_NONE
        there, here = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = trusts.wrap_bio(here, there)
        self.server = front_context(own.cert, own.key).wrap_bio(there, here, server_side=True)
        for _ in range(2):
            for end in (self.client, self.server):
                try:
                    end.do_handshake()
                except ssl.SSLWantReadError:
                    continue
        self.ended = 0
        self.watched = records.watch(self.server, self._end)

    def _end(self) -> None:
        self.ended += 1

    def send(self, times: int, size: int) -> None:
        for _ in range(times):
            self.client.write(b"a" * size)
            assert self.server.read(size) == b"a" * size


def test_small_ones_are_those_beyond_what_is_needed(tmp_path: Path) -> None:
    pair = _Pair(tmp_path)
    pair.watched.small(0)
    pair.send(300, 1)
    assert pair.watched.small(300) == 300 - 300 // 64
    pair.send(300, 64)
    assert pair.watched.small(300 * 64) == 0
    assert not pair.ended


@pytest.mark.parametrize("told", ["nobody", "its reader", "another"])
def test_what_nobody_is_told_of_ends_its_connection(
    told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "MOST_UNHEARD", 100)
    pair = _Pair(tmp_path)
    if told == "another":
        pair.watched.told_elsewhere()
    for _ in range(5):
        pair.send(50, 1)
        if told == "its reader":
            pair.watched.small(50)
    assert pair.ended == (told == "nobody")


def test_a_connection_that_is_over_is_forgotten(tmp_path: Path) -> None:
    pair = _Pair(tmp_path)
    pair.send(1, 1)
    server = ref(pair.server)
    del pair
    gc.collect()
    assert server() is None
