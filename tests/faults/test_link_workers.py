"""Connections that link workers carry, and workers that die."""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from prfaas.agent.arena import Arena
from prfaas.core.addresses import parse_address
from prfaas.core.errors import CallerError, ConfigError
from prfaas.link.api import OutgoingTransfer, Reception, Refusal, TransferKey, TransferOffer
from prfaas.link.protocol.frames import Hello, Kind, control
from prfaas.link.tcp.config import PeerConfig, Plaintext, TcpLinkConfig
from prfaas.link.tcp.link import TcpLink
from prfaas.link.tcp.link_test_stream import LinkTestStream
from prfaas.link.tcp.shared_memory import SharedMemory
from prfaas.link.tcp.workers import Workers
from prfaas.testing.line_relay import LineRelay
from prfaas.testing.waiting import until
from prfaas.tls import authority
from prfaas.tls.files import TlsFiles, files_of

MIB = 1024 * 1024
SIZE = 32 * MIB
PIECE = 192 * 1024
STEP = 512 * 1024
"""At most so much is on its way at a time."""
STUCK_S = 120.0
"""Nothing takes so long: a test that hangs fails with what it waited for."""

Security = Callable[[str], TlsFiles | Plaintext]


wait_until = partial(until, within_s=STUCK_S)


class End:
    """A link over an arena; every transfer lands at its start, in pieces."""

    def __init__(
        self,
        name: str,
        security: TlsFiles | Plaintext,
        peers: dict[str, PeerConfig],
        workers: int,
    ) -> None:
        self.arena = Arena(name, SIZE)
        self.offers = 0
        self.failed_because: list[str] = []
        config = TcpLinkConfig(name=name, security=security, peers=peers, workers=workers)
        self.link = TcpLink(config, self, SharedMemory(self.arena.fd, self.arena.view))

    def views(self, flat_offset: int, length: int) -> Sequence[memoryview]:
        end = flat_offset + length
        return [self.arena.view[at : min(at + PIECE, end)] for at in range(flat_offset, end, PIECE)]

    def offered(self, peer: str, offer: TransferOffer) -> Reception | Refusal:
        self.offers += 1
        return self

    def stored(self, key: TransferKey, flat_offset: int, length: int) -> None:
        pass

    def completed(self, key: TransferKey) -> None:
        pass

    def failed(self, key: TransferKey, reason: str) -> None:
        self.failed_because.append(reason)

    def withdrawn(self, key: TransferKey, reason: str) -> None:
        pass

    @property
    def workers(self) -> Workers:
        assert self.link.workers is not None
        return self.link.workers

    def close(self) -> None:
        self.link.close()
        self.arena.close()


class Pair:
    """east sends to west; both have as many workers, which are to carry all connections."""

    def __init__(self, west: End, east: End) -> None:
        self.west, self.east = west, east

    def carried(self) -> bool:
        """All connections, by all workers."""
        ends = [self.east, self.west]
        east, west = self.east.link.states()[0], self.west.link.counters()
        open_now = (east.connections, west.incoming_connections)
        return (
            all(end.workers.ready for end in ends)
            and all(open_now)
            and open_now == tuple(end.workers.connections for end in ends)
        )

    def begin(
        self, name: str, on_complete: Callable[[], None], on_failed: Callable[[str], None]
    ) -> OutgoingTransfer:
        offer = TransferOffer(TransferKey(name, 0, 1), "layout", 0, 256, SIZE, STUCK_S)
        return self.east.link.send("west", offer, on_complete=on_complete, on_failed=on_failed)

    def move(self, name: str, between: Callable[[int], None] = lambda step: None) -> str:
        """The outcome of sending all of east's arena, a step after the other; ``between``: called
        when one may be on its way."""
        over, outcome = threading.Event(), ["complete"]

        def failed(why: str) -> None:
            outcome[0] = why
            over.set()

        handle = self.begin(name, over.set, failed)
        for start in range(0, SIZE, STEP):
            handle.add(start, self.east.arena.view[start : start + STEP], lambda: None)
            between(start // STEP)
            wait_until(
                lambda done=start + STEP: handle.acknowledged_bytes >= done or over.is_set(),
                "a step to arrive",
            )
        assert over.wait(STUCK_S), "no outcome"
        return outcome[0]

    def close(self) -> None:
        self.east.close()
        self.west.close()


@pytest.fixture
def pairs() -> Iterator[list[Pair]]:
    made: list[Pair] = []
    yield made
    for pair in made:
        pair.close()


def carried_pair(
    pairs: list[Pair], security: Security, workers: int = 1, connections: int = 4
) -> Pair:
    west = End("west", security("west"), {}, workers)
    to_west = PeerConfig(address=west.link.address, connections=connections)
    pairs.append(pair := Pair(west, End("east", security("east"), {"west": to_west}, workers)))
    wait_until(pair.carried, "workers that carry all connections")
    return pair


@pytest.fixture(params=["plaintext", "tls"])
def security(request: pytest.FixtureRequest, tmp_path: Path) -> Security:
    return plaintext if request.param == "plaintext" else _certificates(tmp_path)


def plaintext(name: str) -> Plaintext:
    return Plaintext()


def _certificates(directory: Path) -> Security:
    authority.create_authority(directory)
    for name in ("east", "west"):
        authority.issue(directory, name)
    return lambda name: files_of(directory, name)


def test_workers_carry_everything(pairs: list[Pair], security: Security) -> None:
    pair = carried_pair(pairs, security, 2)
    pair.east.arena.view[:] = random.Random(1).randbytes(SIZE)
    assert pair.move("first") == "complete"
    assert pair.west.arena.view == pair.east.arena.view
    assert pair.west.link.counters().bytes_stored == SIZE
    wait_until(pair.carried, "workers that still carry all connections")


def test_workers_get_a_connection_that_was_being_made_when_they_came_up(
    pairs: list[Pair], security: Security
) -> None:
    """Both ends began it themselves; it is not open yet when they look for what to make anew."""
    west = End("west", security("west"), {}, 1)
    with LineRelay(west.link.address) as line:
        line.hang()
        to_west = PeerConfig(address=line.address, connections=1)
        east = End("east", security("east"), {"west": to_west}, 1)
        pairs.append(pair := Pair(west, east))
        wait_until(lambda: east.workers.ready and west.workers.ready, "workers")
        time.sleep(0.5)  # Both have looked.
        line.mend()
        wait_until(pair.carried, "workers that carry all connections")


def test_transfers_survive_the_death_of_workers(pairs: list[Pair], security: Security) -> None:
    """What is on its way when one dies is at most the step that was added last, and again when
    what the agent then carries itself is given to another: no more than that may be sent again,
    however fast or slow this machine is."""
    pair = carried_pair(pairs, security, 2)
    pair.east.arena.view[:] = random.Random(2).randbytes(SIZE)
    killed = []

    def kill(step: int) -> None:
        if step % 22 == 11:
            end = (pair.east, pair.west)[len(killed) % 2]
            wait_until(end.workers.pids, "a worker")
            killed.append(end.workers.pids()[0])
            os.kill(killed[-1], signal.SIGKILL)

    assert pair.move("t", kill) == "complete"
    assert len(killed) == 3
    assert pair.west.arena.view == pair.east.arena.view
    state = pair.east.link.states()[0]
    assert state.acknowledged_bytes_total == SIZE
    assert state.resent_bytes_total <= 2 * len(killed) * STEP <= SIZE / 10
    assert not pair.west.failed_because
    wait_until(pair.carried, "others in the place of those that died")


def test_workers_end_with_their_agent(pairs: list[Pair]) -> None:
    pair = carried_pair(pairs, plaintext)
    pids = [*pair.east.workers.pids(), *pair.west.workers.pids()]
    assert len(pids) == 2
    pairs.remove(pair)
    pair.close()
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_a_hang_up_ends_no_worker(pairs: list[Pair]) -> None:
    """A terminal that closes tells the whole group of its processes."""
    pair = carried_pair(pairs, plaintext)
    pids = pair.west.workers.pids()
    for pid in pids:
        os.kill(pid, signal.SIGHUP)
    assert pair.move("t") == "complete"
    assert pair.west.workers.pids() == pids


def test_memory_that_workers_do_not_share_is_refused(pairs: list[Pair]) -> None:
    pair = carried_pair(pairs, plaintext)
    handle = pair.begin("t", lambda: None, lambda why: None)
    with pytest.raises(CallerError, match="the agent's arena only"):
        handle.add(0, memoryview(bytearray(8)), lambda: None)


def test_a_link_test_needs_no_memory_of_the_arena(pairs: list[Pair]) -> None:
    pair = carried_pair(pairs, plaintext)
    pair.west.arena.view[:4] = b"kept"
    with LinkTestStream(pair.east.link, "west", STUCK_S) as stream:
        stream.wait_for_first_bytes(STUCK_S)
    counters = pair.west.link.counters()
    assert counters.bytes_stored >= 1
    assert counters.chunks_corrupt == 0
    assert pair.west.arena.view[:4] == b"kept"


def test_many_words_at_once_are_said_in_parts(pairs: list[Pair]) -> None:
    """Offers and their answers of more bytes than a message between processes may have."""
    pair = carried_pair(pairs, plaintext, connections=1)
    lost = pair.east.link.counters().peers["west"].connections_lost
    name, count = "long" * 14, 3000
    handles = [pair.begin(f"{name}{n}", lambda: None, lambda why: None) for n in range(count)]
    wait_until(lambda: pair.west.offers == count, "all offers")
    for handle in handles:
        handle.cancel("enough")
    wait_until(lambda: len(pair.west.failed_because) == count, "the end of all")
    assert pair.east.link.counters().peers["west"].connections_lost == lost


def test_whom_workers_turn_away_is_counted_by_the_agent(pairs: list[Pair]) -> None:
    pair = carried_pair(pairs, plaintext)
    pair.west.link.reconfigure({}, frozenset())
    pair.east.link.reconfigure({}, frozenset())
    pair.east.link.set_peer("west", PeerConfig(address=pair.west.link.address))
    wait_until(
        lambda: pair.west.link.counters().turned_away.get("forbidden"), "whom it turned away"
    )


def turned_away(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line for line in caplog.messages if "turned away" in line]


def test_a_peer_that_workers_let_in_and_the_agent_does_not_is_counted_and_fills_no_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    west = End("west", plaintext("west"), {}, workers=1)
    sockets: list[socket.socket] = []
    try:
        wait_until(lambda: west.workers.ready, "a worker that carries connections")
        west.link.reconfigure({}, frozenset({"east"}), 2)
        began = time.monotonic()
        for number in range(60):
            sockets.append(socket.create_connection(parse_address(west.link.address)))
            sockets[-1].sendall(control(Kind.HELLO, Hello("east", "west", 1, number)))
        refused = 60 - 1  # Half of the room that there is for all.
        wait_until(
            lambda: west.link.counters().turned_away.get("protocol", 0) >= refused, "all refusals"
        )
        assert len(turned_away(caplog)) <= 1 + time.monotonic() - began
    finally:
        for sock in sockets:
            sock.close()
        west.close()


def test_all_workers_together_say_once_a_second_whom_they_turn_away(
    caplog: pytest.LogCaptureFixture,
) -> None:
    west = End("west", plaintext("west"), {}, workers=2)
    sockets: list[socket.socket] = []
    try:
        wait_until(lambda: west.workers.ready, "both workers")
        began = time.monotonic()
        for count in range(1, 41):
            sockets.append(socket.create_connection(parse_address(west.link.address)))
            sockets[-1].sendall(b"GET / HTTP/1.1\r\n\r\n")
            wait_until(
                lambda count=count: sum(w.given for w in west.workers._living()) >= count, "it"
            )
        wait_until(lambda: west.link.counters().turned_away.get("unknown") == 40, "all refusals")
        assert 1 <= len(turned_away(caplog)) <= 1 + time.monotonic() - began
        assert all(worker.told.turned_away for worker in west.workers._living()), "by both"
    finally:
        for sock in sockets:
            sock.close()
        west.close()


def test_a_revoked_certificate_ends_what_workers_carry(pairs: list[Pair], tmp_path: Path) -> None:
    security = _certificates(tmp_path)
    pair = carried_pair(pairs, security)
    authority.revoke(tmp_path, "east")
    assert pair.west.link.tls is not None
    files = files_of(tmp_path, "west")
    pair.west.link.tls.read(TlsFiles(files.ca, files.cert, files.key, tmp_path / "crl.pem"))
    wait_until(lambda: not pair.west.link.counters().incoming_connections, "the end of all")
    wait_until(
        lambda: pair.west.link.counters().turned_away.get("certificate"), "whom it turned away"
    )
    assert pair.west.workers.count == 1, "workers outlive whom they end connections with"


def test_workers_outlive_a_certificate_that_is_being_exchanged(
    pairs: list[Pair], tmp_path: Path
) -> None:
    """Its key has not come, and meanwhile somebody is revoked, who gets out all the same."""
    security = _certificates(tmp_path)
    files = files_of(tmp_path, "west")
    listed = TlsFiles(files.ca, files.cert, files.key, authority.renew_list(tmp_path))
    pair = carried_pair(pairs, lambda name: listed if name == "west" else security(name))
    first, tls = pair.west.workers.pids(), pair.west.link.tls
    assert tls is not None
    key = files.key.read_bytes()
    files.key.write_bytes(b"half of a key")
    authority.revoke(tmp_path, "east")
    with pytest.raises(ConfigError, match="not a certificate and its key"):
        tls.read(listed)
    wait_until(lambda: not pair.west.link.counters().incoming_connections, "the end of east's")
    assert pair.west.workers.pids() == first
    os.kill(first[0], signal.SIGKILL)
    wait_until(lambda: not pair.west.workers.pids(), "its end")
    files.key.write_bytes(key)
    tls.read(listed)
    wait_until(lambda: pair.west.workers.count == 1, "another in its place")


def test_a_worker_that_cannot_read_the_certificates_ends(pairs: list[Pair], tmp_path: Path) -> None:
    """It would go on to trust whom the agent trusts no more."""
    pair = carried_pair(pairs, _certificates(tmp_path))
    first = set(pair.west.workers.pids())
    assert pair.west.link.tls is not None
    certificate = (tmp_path / "west.pem").read_bytes()
    (tmp_path / "west.pem").write_bytes(b"half of a cert")
    pair.west.link.tls.version += 1  # As if it had been whole when the agent read it.
    wait_until(lambda: not first & set(pair.west.workers.pids()), "the end of all workers")
    (tmp_path / "west.pem").write_bytes(certificate)
    wait_until(pair.carried, "others in their place")
