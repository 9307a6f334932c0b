"""Who may push to whom: certificates, names, and what each side is told."""

from __future__ import annotations

import contextlib
import errno
import logging
import resource
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from xxhash import xxh3_64_intdigest

from prfaas.core.addresses import parse_address
from prfaas.core.errors import LinkError
from prfaas.link.api import TransferKey, TransferOffer
from prfaas.link.protocol.frames import (
    HEADER_BYTES,
    VERSION,
    Hello,
    Kind,
    Reason,
    control,
    decode,
    unpack,
)
from prfaas.link.tcp import acceptor, pending_connection
from prfaas.link.tcp.acceptor import Acceptor
from prfaas.link.tcp.config import PeerConfig, Plaintext, TcpLinkConfig
from prfaas.link.tcp.link import TcpLink
from prfaas.testing.link_kit import MemorySink
from prfaas.testing.waiting import until
from prfaas.tls import authority
from prfaas.tls.files import TlsFiles


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TlsFiles]:
    ours, theirs = tmp_path_factory.mktemp("ours"), tmp_path_factory.mktemp("theirs")
    authority.create_authority(ours)
    authority.create_authority(theirs)
    return {
        "east": authority.issue(ours, "east"),
        "west": authority.issue(ours, "west"),
        "mallory": authority.issue(theirs, "east"),
        "expired": authority.issue(ours, "late", days=-1),
    }


Open = Callable[..., TcpLink]


@pytest.fixture
def open_link() -> Iterator[Open]:
    links: list[TcpLink] = []

    def make(name: str, security: TlsFiles | Plaintext, **settings: object) -> TcpLink:
        config = TcpLinkConfig(name=name, security=security, **settings)  # type: ignore[arg-type]
        links.append(TcpLink(config, MemorySink()))
        return links[-1]

    yield make
    for link in links:
        link.close()


def send(link: TcpLink, peer: str, deadline_s: float) -> list[str]:
    """Outcome of a tiny transfer."""
    said: list[str] = []
    over = threading.Event()

    def end(outcome: str) -> None:
        said.append(outcome)
        over.set()

    offer = TransferOffer(TransferKey("t", 0, 1), "layout", 0, 256, 4, deadline_s)
    handle = link.send(peer, offer, on_complete=lambda: end("complete"), on_failed=end)
    handle.add(0, memoryview(b"four"), lambda: None)
    assert over.wait(deadline_s + 10)
    return said


def test_agents_of_one_authority_talk(pki: dict[str, TlsFiles], open_link: Open) -> None:
    west = open_link("west", pki["west"], accept_from=frozenset({"east"}))
    east = open_link("east", pki["east"], peers={"west": PeerConfig(address=west.address)})
    assert send(east, "west", 10.0) == ["complete"]


def test_agents_talk_over_ipv6(pki: dict[str, TlsFiles], open_link: Open) -> None:
    west = open_link("west", pki["west"], listen="[::1]:0")
    assert west.address.startswith("[::1]:")
    east = open_link("east", pki["east"], peers={"west": PeerConfig(address=west.address)})
    assert send(east, "west", 10.0) == ["complete"]


def test_a_sender_that_breaks_off_again_and_again_fills_no_log(
    open_link: Open, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    west = open_link("west", Plaintext())
    for number in range(60):
        with socket.create_connection(parse_address(west.address)) as sock:
            sock.sendall(control(Kind.HELLO, Hello("east", "west", 1, number)))
            assert sock.recv(1)
            sock.sendall(control(Kind.REFUSE, Reason("nonsense")))
            while sock.recv(4096):
                pass
    said = [record for record in caplog.records if "connection from east" in record.message]
    assert 0 < len(said) < 30


def test_there_is_room_for_as_many_as_send_here_now(open_link: Open) -> None:
    senders = frozenset(f"s{number}" for number in range(300))
    west = open_link("west", Plaintext(), accept_from=senders)
    peers = {"west": PeerConfig(address=west.address)}
    with contextlib.ExitStack() as opened:
        for number in range(256):
            sock = opened.enter_context(socket.create_connection(parse_address(west.address)))
            sock.sendall(control(Kind.HELLO, Hello(f"s{number}", "west", 1, 1)))
            assert sock.recv(1)
        last = open_link("s299", Plaintext(), peers=peers)
        assert send(last, "west", 1.0) != ["complete"]
        west.reconfigure({}, senders, 600)
        assert send(last, "west", 20.0) == ["complete"]


def test_peers_come_and_go_while_the_link_runs(open_link: Open) -> None:
    west = open_link("west", Plaintext(), accept_from=frozenset())
    east = open_link("east", Plaintext())
    with pytest.raises(LinkError, match="has no peer 'west'; known: none"):
        send(east, "west", 1.0)
    peers = {"west": PeerConfig(address=west.address)}
    east.reconfigure(peers, frozenset())
    assert send(east, "west", 1.0) != ["complete"]
    west.reconfigure({}, frozenset({"east"}))
    assert send(east, "west", 20.0) == ["complete"]
    west.reconfigure({}, frozenset())
    assert send(east, "west", 20.0) == ["agent 'east' may not push to this one any more"]
    assert west.counters().incoming_connections > 0
    west.reconfigure({}, frozenset({"east"}))
    assert east.reconfigure(peers, frozenset()) is None
    assert send(east, "west", 20.0) == ["complete"]
    east.reconfigure({}, frozenset())
    assert east.states() == []
    with pytest.raises(LinkError, match="has no peer 'west'"):
        send(east, "west", 1.0)


def of_version(frame: bytes, version: int) -> bytes:
    """The frame as another version of the KV link would send it."""
    fields = bytearray(frame[: HEADER_BYTES - 8])
    fields[1] = version
    check = struct.pack("<Q", xxh3_64_intdigest(bytes(fields)))
    return bytes(fields) + check + frame[HEADER_BYTES:]


def test_an_agent_of_another_version_is_told_in_words_it_can_read(open_link: Open) -> None:
    west = open_link("west", Plaintext())
    hello = control(Kind.HELLO, Hello("east", "west", session=1, connection=1))
    with socket.create_connection(parse_address(west.address)) as newer:
        newer.sendall(of_version(hello, VERSION + 1))
        newer.settimeout(10.0)
        answer = b"".join(iter(lambda: newer.recv(4096), b""))
    header = unpack(memoryview(answer)[:HEADER_BYTES], max_chunk_bytes=1)
    why = decode(answer[HEADER_BYTES:], Reason).reason
    assert header.kind is Kind.REJECT
    assert f"speaks version {VERSION + 1} of the KV link, this agent version {VERSION}" in why
    assert west.counters().turned_away == {"version": 1}
    rejected = memoryview(of_version(answer, VERSION + 1))[:HEADER_BYTES]
    assert unpack(rejected, max_chunk_bytes=1).kind is Kind.REJECT


@pytest.mark.parametrize(
    ("who", "name", "told", "counted"),
    [
        ("mallory", "east", "certificate", "refused-us"),
        ("expired", "late", "refused our certificate|closed the connection", "certificate"),
        ("plain", "east", "requires TLS", "plaintext"),
        ("east", "west-2", "issued to east, not to 'west-2'", "protocol"),
        ("west", "west", "may not push", "forbidden"),
    ],
)
def test_others_are_told_why_and_counted(
    pki: dict[str, TlsFiles],
    open_link: Open,
    caplog: pytest.LogCaptureFixture,
    who: str,
    name: str,
    told: str,
    counted: str,
) -> None:
    caplog.set_level(logging.WARNING)
    west = open_link("west", pki["west"], accept_from=frozenset({"east", "late", "west-2"}))
    security = Plaintext() if who == "plain" else pki[who]
    other = open_link(name, security, peers={"west": PeerConfig(address=west.address)})
    (outcome,) = send(other, "west", 1.5)
    assert "deadline" in outcome
    assert any(part in outcome for part in told.split("|")), "the cause is told to the caller"
    assert west.counters().turned_away.get(counted, 0) >= 1
    messages = [r.getMessage() for r in caplog.records if "link to west" in r.getMessage()]
    assert messages
    assert any(part in messages[0] for part in told.split("|")), messages[0]
    assert sum(other.counters().peers["west"].dial_errors.values()) >= 1


def torn(message: bytes, record_bytes: int) -> bytes:
    """In records so long."""
    pieces = (message[k : k + record_bytes] for k in range(0, len(message), record_bytes))
    return b"".join(b"\x16\x03\x01" + struct.pack(">H", len(piece)) + piece for piece in pieces)


@pytest.mark.parametrize("begins", [0, 3, 9])
def test_a_handshake_in_records_of_a_byte_is_not_read(
    begins: int, pki: dict[str, TlsFiles], open_link: Open
) -> None:
    """A hundred kilobytes of one took the thread that serves everybody for a seventh of a second,
    and a hundred strangers kept every peer out."""
    west = open_link("west", pki["west"], handshake_timeout_s=60.0)
    length = 100_000
    said = torn(b"\x01" + length.to_bytes(3, "big") + b"\x03\x03" + bytes(length - 2), 1)
    with socket.create_connection(parse_address(west.address)) as sock:
        sock.settimeout(20)
        sock.sendall(said[:begins])
        if begins:
            time.sleep(0.2)
        with contextlib.suppress(ConnectionError):
            sock.sendall(said[begins:60_000])
            assert sock.recv(1) == b""
    assert west.counters().turned_away["handshake"] == 1


def test_a_handshake_that_goes_on_and_on_is_not_read(
    pki: dict[str, TlsFiles], open_link: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Less than it begins with: what follows may come while OpenSSL reads, and is not seen.
    monkeypatch.setattr(pending_connection, "_MOST_BYTES", 100)
    west = open_link("west", pki["west"])
    east = open_link("east", pki["east"], peers={"west": PeerConfig(address=west.address)})
    assert send(east, "west", 1.0) != ["complete"]
    assert west.counters().turned_away["handshake"] >= 1


def test_a_tls_client_of_a_plaintext_agent_is_told(
    pki: dict[str, TlsFiles], open_link: Open, caplog: pytest.LogCaptureFixture
) -> None:
    west = open_link("west", Plaintext())
    east = open_link("east", pki["east"], peers={"west": PeerConfig(address=west.address)})
    assert "deadline" in send(east, "west", 1.5)[0]
    assert west.counters().turned_away["tls"] >= 1
    assert any("configured for plaintext" in r.getMessage() for r in caplog.records)


def test_clients_that_hang_up_at_any_moment_leave_nothing_behind(
    pki: dict[str, TlsFiles], open_link: Open
) -> None:
    west = open_link("west", pki["west"])
    address = parse_address(west.address)
    for number in range(60):
        with socket.create_connection(address) as sock:
            # Closing resets the connection, so that nothing orderly is left to read.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.send(b"\x16" * (number + 1))
    east = open_link("east", pki["east"], peers={"west": PeerConfig(address=west.address)})
    assert send(east, "west", 10.0) == ["complete"]
    until = time.monotonic() + 10
    while west.counters().pending_connections and time.monotonic() < until:
        threading.Event().wait(0.01)
    assert west.counters().pending_connections == 0
    assert sum(west.counters().turned_away.values()) == 60


def test_the_wrong_agent_at_the_right_address(
    pki: dict[str, TlsFiles], open_link: Open, caplog: pytest.LogCaptureFixture
) -> None:
    west = open_link("west", pki["west"])
    east = open_link("east", pki["east"], peers={"north": PeerConfig(address=west.address)})
    assert "deadline" in send(east, "north", 0.4)[0]
    assert any("issued to west, not to 'north'" in r.getMessage() for r in caplog.records)


def test_accepting_pauses_where_no_descriptor_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    made, pauses, tries = (
        Acceptor(
            TcpLinkConfig(name="west", security=Plaintext()),
            1,
            lambda channel, hello: None,
            tls=None,
        ),
        list[float](),
        list[int](),
    )

    def accept(listener: socket.socket) -> None:
        tries.append(1)
        if len(tries) == 3:
            made.stop()
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(socket.socket, "accept", accept)
    monkeypatch.setattr(acceptor.time, "sleep", pauses.append)
    address = parse_address(made.address)
    with socket.create_connection(address):
        made.run()
    assert len(pauses) == made.turned_away["accept"] == 3


def test_handshakes_of_one_network_wait_for_newcomers_and_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a network that has hundreds under way a few go on at a time: each takes as long as four
    newcomers, and who waits to come in may be a peer."""
    config = TcpLinkConfig(name="west", listen="127.0.0.1:0", security=Plaintext())
    door = Acceptor(config, 1, lambda *_: None, tls=None)
    steps = list[str]()
    monkeypatch.setattr(door, "_readable", lambda connection: steps.append(connection.network))
    address = parse_address(door.address)
    with contextlib.ExitStack() as opened:
        for source in ["127.0.0.1"] * 60 + ["127.0.0.2"] * 2:
            sock = socket.create_connection(address, source_address=(source, 0))
            opened.enter_context(sock).send(b"x")
        for _ in range(8):
            steps.clear()
            door._serve_ready()
        assert door.pending == 62
        assert steps.count("127.0.0.1") == acceptor._STEPS_AT_ONCE
        assert steps.count("127.0.0.2") == 2
    door.stop()
    door.run()


def test_strangers_of_many_networks_push_nobody_out_within_some_round_trips(
    many_files: None,
) -> None:
    """5,000 a second, each from an address of its own, for 300 ms: no network has its share."""
    config = TcpLinkConfig(name="west", listen="127.0.0.1:0", security=Plaintext())
    door = Acceptor(config, 1, lambda *_: None, tls=None)
    address = parse_address(door.address)
    with contextlib.ExitStack() as opened:
        peer = opened.enter_context(socket.create_connection(address))
        for number in range(1500):
            source = f"127.9.{number // 200}.{number % 200 + 1}"
            sock = socket.create_connection(address, source_address=(source, 0))
            opened.enter_context(sock)
            door._accept()
        peer.setblocking(False)
        with pytest.raises(BlockingIOError):  # It is open, and nobody has said anything to it.
            peer.recv(1)
        assert not door.turned_away
    door.stop()
    door.run()


class Elsewhere:
    """Whoever serves the other protocol."""

    def __init__(self) -> None:
        self.given: list[tuple[socket.socket, Any]] = []
        self.room = True

    def give(self, sock: socket.socket, peer: Any) -> bool:
        self.given.append((sock, peer))
        return self.room

    def close(self) -> None:
        for sock, _ in self.given:
            sock.close()


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    made = Elsewhere()
    yield made
    made.close()


@pytest.mark.parametrize("secure", [True, False])
def test_what_is_not_for_the_kv_link_is_given_to_others_unread(
    pki: dict[str, TlsFiles], elsewhere: Elsewhere, secure: bool
) -> None:
    security = pki["west"] if secure else Plaintext()
    config = TcpLinkConfig(name="west", security=security, accept_from=frozenset({"east"}))
    west = TcpLink(config, MemorySink(), others=elsewhere)
    peers = {"west": PeerConfig(address=west.address)}
    sender = pki["east"] if secure else Plaintext()
    east = TcpLink(TcpLinkConfig(name="east", security=sender, peers=peers), MemorySink())
    try:
        assert send(east, "west", 30.0) == ["complete"]
        assert not elsewhere.given
        said = b"GET / HTTP/1.1\r\n\r\n"
        if secure:
            context, hello = ssl.create_default_context(), ssl.MemoryBIO()
            with contextlib.suppress(ssl.SSLWantReadError):
                tls = context.wrap_bio(ssl.MemoryBIO(), hello, server_hostname="west")
                tls.do_handshake()
            said = hello.read()
        with socket.create_connection(parse_address(west.address)) as sock:
            pieces = [said[:1], said[1:4], said[4:9], said[9:]]
            for piece in pieces:
                assert not elsewhere.given or not secure
                sock.sendall(piece)
                time.sleep(0.02)
            until(lambda: elsewhere.given)
            (given, peer), own = elsewhere.given[0], sock.getsockname()
            assert peer[:2] == own
            given.setblocking(True)
            assert given.recv(len(said), socket.MSG_WAITALL) == said
        assert west.counters().turned_away == {}
    finally:
        east.close()
        west.close()


def test_a_first_message_that_does_not_end_wakes_nobody(elsewhere: Elsewhere) -> None:
    """Until its sender goes; it is looked at as often as it comes in pieces."""
    config = TcpLinkConfig(name="west", listen="127.0.0.1:0", security=Plaintext())
    door = Acceptor(config, 1, lambda *_: None, tls=None, others=elsewhere)
    with socket.create_connection(parse_address(door.address)) as sock:
        door._serve_ready()
        sock.sendall(b"\x16\3\1\1\0" + bytes(100))
        door._serve_ready()
        assert door.pending == 1
        assert door._selector.select(timeout=0) == []
        sock.sendall(bytes(100))
        assert door._selector.select(timeout=0.05) == []
        sock.shutdown(socket.SHUT_WR)
        door._serve_ready()
        assert door.turned_away == {"closed": 1}
    with socket.create_connection(parse_address(door.address)) as sock:
        door._serve_ready()
        sock.sendall(b"\x16\3\1\1\0" + bytes(256))
        door._serve_ready()
        assert len(elsewhere.given) == 1
        given = elsewhere.given[0][0]
        assert given.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
    assert "overflow" not in door.turned_away
    elsewhere.room = False
    with socket.create_connection(parse_address(door.address)) as sock:
        door._serve_ready()
        sock.sendall(b"GET")
        door._serve_ready()
        assert door.turned_away["overflow"] == 1, "another had to go for it"
    door.stop()
    door.run()


def test_a_worker_gets_what_is_for_the_kv_link_alone(elsewhere: Elsewhere) -> None:
    config = TcpLinkConfig(name="west", listen="127.0.0.1:0", security=Plaintext())
    taken: list[bytes] = []

    def take(sock: socket.socket, host: str, port: int) -> bool:
        taken.append(sock.recv(100, socket.MSG_PEEK))
        return True

    door = Acceptor(config, 1, lambda *_: None, tls=None, give_away=take, others=elsewhere)
    for said in (b"GET", b"\1"):
        with socket.create_connection(parse_address(door.address)) as sock:
            sock.sendall(said)
            door._serve_ready()
            door._serve_ready()
    assert (taken, len(elsewhere.given), door.pending) == ([b"\1"], 1, 0)
    door.stop()
    door.run()


@pytest.fixture
def many_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < 4096:
        pytest.skip(f"needs 4,096 descriptors (ulimit -Hn is {before[1]})")
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
