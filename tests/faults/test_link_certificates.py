"""Certificates that are exchanged, revoked, foreign or named otherwise, while agents run."""

from __future__ import annotations

import asyncio
import base64
import datetime
import logging
import os
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from prfaas.agent.service import Agent
from prfaas.agent.settings import AgentSettings
from prfaas.core.addresses import Address, parse_address
from prfaas.core.errors import ConfigError, PeerError
from prfaas.link.api import TransferKey, TransferOffer
from prfaas.link.protocol.frames import Hello, Kind, control
from prfaas.link.tcp.config import PeerConfig, TcpLinkConfig
from prfaas.link.tcp.link import TcpLink
from prfaas.testing.link_kit import MemorySink
from prfaas.testing.mock_deployment import until
from prfaas.tls.authority import create_authority, issue, renew_list, revoke
from prfaas.tls.context import (
    PeerContext,
    check_server,
    client_context,
    named_context,
    peer_context,
    server_context,
)
from prfaas.tls.expiry import expiring
from prfaas.tls.files import TlsFiles, files_of
from prfaas.tls.live import LiveTls

WAIT_S = 60.0
PATIENT_S = 30.0
"""For a handshake on a machine that is busy with all of this by itself."""


class Agents:
    """Links that are closed at the end, and transfers between them."""

    def __init__(self) -> None:
        self.links: list[TcpLink] = []
        self.sent = 0

    def open(
        self, name: str, tls: TlsFiles, to: TcpLink | None = None, *, handshake_s: float = 3.0
    ) -> TcpLink:
        peers = {} if to is None else {"west": PeerConfig(address=to.address, connections=1)}
        config = TcpLinkConfig(
            name=name, security=tls, peers=peers, handshake_timeout_s=handshake_s
        )
        self.links.append(TcpLink(config, MemorySink()))
        return self.links[-1]

    def send(self, link: TcpLink, within_s: float) -> str:
        over = threading.Event()
        said: list[str] = []

        def end(outcome: str) -> None:
            said.append(outcome)
            over.set()

        self.sent += 1
        offer = TransferOffer(TransferKey(f"t{self.sent}", 0, 1), "l", 0, 256, 4, within_s)
        link.send("west", offer, on_complete=lambda: end("complete"), on_failed=end).add(
            0, memoryview(b"four"), lambda: None
        )
        assert over.wait(within_s + 10)
        return said[0]


@pytest.fixture
def agents() -> Iterator[Agents]:
    found = Agents()
    yield found
    for link in found.links:
        link.close()


def put(files: TlsFiles, at: Path) -> TlsFiles:
    """Copies of them, to be exchanged later."""
    at.mkdir(exist_ok=True)
    new = TlsFiles(at / "ca.pem", at / "cert.pem", at / "key.pem", files.crl, files.names)
    for source, target in ((files.ca, new.ca), (files.cert, new.cert), (files.key, new.key)):
        shutil.copy(source, target.with_suffix(".new"))
        os.replace(target.with_suffix(".new"), target)
    return new


def test_a_new_authority_is_taken_over_without_a_restart(agents: Agents, tmp_path: Path) -> None:
    for name in ("old", "new"):
        create_authority(tmp_path / name)
    used = put(issue(tmp_path / "old", "west"), tmp_path / "used")
    west = agents.open("west", used)
    old = agents.open("east", issue(tmp_path / "old", "east"), to=west)
    assert agents.send(old, WAIT_S) == "complete"
    new = agents.open("east", issue(tmp_path / "new", "east"), to=west)
    assert agents.send(new, 1.0) != "complete"

    assert west.tls is not None
    assert not west.tls.changed()
    put(issue(tmp_path / "new", "west"), tmp_path / "used")
    assert west.tls.changed()
    west.tls.read(west.tls.files)
    assert not west.tls.changed()
    assert agents.send(new, WAIT_S) == "complete"
    # Its connection was checked when it began, and ends when the agent looks again.
    assert agents.send(old, WAIT_S) == "complete"
    [said] = west.tls.end_untrusted(now=time.time())
    assert "of an authority that is not trusted any more" in said
    assert agents.send(old, 1.0) != "complete"
    assert agents.send(new, WAIT_S) == "complete"
    assert west.tls.end_untrusted(now=time.time()) == []


def test_a_revoked_certificate_gets_in_no_more(agents: Agents, tmp_path: Path) -> None:
    create_authority(tmp_path)
    west_files, east_files = issue(tmp_path, "west"), issue(tmp_path, "east")
    stolen = put(issue(tmp_path, "mallory"), tmp_path / "stolen")
    crl = revoke(tmp_path, "mallory")
    west = agents.open("west", TlsFiles(*_paths(west_files), crl))
    good = agents.open("east", east_files, to=west)
    assert agents.send(good, WAIT_S) == "complete"
    bad = agents.open("mallory", stolen, to=west)
    assert agents.send(bad, 1.5) != "complete"
    assert west.counters().turned_away["certificate"] >= 1

    revoke(tmp_path, "east")
    assert west.tls is not None
    assert west.tls.changed()
    west.tls.read(west.tls.files)
    again = agents.open("east", east_files, to=west)
    assert agents.send(again, 1.5) != "complete"
    revoked = x509.load_pem_x509_crl(crl.read_bytes())
    assert len(list(revoked)) == 2, "who was on the list stays on it"


def test_who_was_dialled_and_is_revoked_then_is_ended_too(agents: Agents, tmp_path: Path) -> None:
    create_authority(tmp_path)
    for name in ("west", "east", "other"):
        issue(tmp_path, name)
    crl = revoke(tmp_path, "other")
    west = agents.open("west", files_of(tmp_path, "west"))
    east = agents.open("east", TlsFiles(*_paths(files_of(tmp_path, "east")), crl), to=west)
    assert agents.send(east, WAIT_S) == "complete"
    assert east.tls is not None
    revoke(tmp_path, "west")
    east.tls.read(east.tls.files)
    [said] = east.tls.end_untrusted(now=time.time())
    assert "CN=west ended: its certificate is revoked" in said
    assert agents.send(east, 1.5) != "complete"


def test_who_has_expired_is_ended(agents: Agents, tmp_path: Path) -> None:
    create_authority(tmp_path)
    west = agents.open("west", issue(tmp_path, "west"))
    east = agents.open("east", issue(tmp_path, "east", days=10), to=west)
    assert agents.send(east, WAIT_S) == "complete"
    assert west.tls is not None
    assert west.tls.end_untrusted(now=time.time() + 9 * 86400) == []
    [said] = west.tls.end_untrusted(now=time.time() + 11 * 86400)
    assert "ended: its certificate has expired" in said


def test_one_file_has_the_lists_of_several_authorities(agents: Agents, tmp_path: Path) -> None:
    both, crl = b"", tmp_path / "crl.pem"
    for name in ("old", "new"):
        create_authority(tmp_path / name)
        issue(tmp_path / name, "mallory")
        both += (tmp_path / name / "ca.pem").read_bytes()
    crl.write_bytes(b"".join(revoke(tmp_path / n, "mallory").read_bytes() for n in ("old", "new")))
    own = issue(tmp_path / "new", "west")
    own.ca.write_bytes(both)
    west = agents.open("west", TlsFiles(*_paths(own), crl))
    for name in ("old", "new"):
        for owner, good in (("east", True), ("mallory", False)):
            shown = issue(tmp_path / name, owner) if good else files_of(tmp_path / name, owner)
            shown.ca.write_bytes(both)
            link = agents.open(owner, TlsFiles(*_paths(shown), crl), to=west)
            assert (agents.send(link, WAIT_S if good else 1.0) == "complete") is good
    assert west.tls is not None
    for name in ("old", "new"):
        peer = x509.load_pem_x509_certificate((tmp_path / name / "mallory.pem").read_bytes())
        assert west.tls.why_not((peer,), now=time.time()) == "its certificate is revoked"


def test_an_authority_that_has_revoked_nothing_has_a_list_too(
    agents: Agents, tmp_path: Path
) -> None:
    both, crl = b"", tmp_path / "crl.pem"
    for name in ("old", "new"):
        create_authority(tmp_path / name)
        both += (tmp_path / name / "ca.pem").read_bytes()
    issue(tmp_path / "old", "mallory")
    lists = revoke(tmp_path / "old", "mallory"), renew_list(tmp_path / "new")
    crl.write_bytes(b"".join(path.read_bytes() for path in lists))
    own = issue(tmp_path / "old", "west")
    own.ca.write_bytes(both)
    west = agents.open("west", TlsFiles(*_paths(own), crl))
    east = issue(tmp_path / "new", "east")
    east.ca.write_bytes(both)
    assert agents.send(agents.open("east", east, to=west), WAIT_S) == "complete"
    before = lists[0].read_bytes()
    assert renew_list(tmp_path / "old").read_bytes() != before
    old, new = (x509.load_pem_x509_crl(text) for text in (before, lists[0].read_bytes()))
    assert [one.serial_number for one in old] == [one.serial_number for one in new]


def _paths(files: TlsFiles) -> tuple[Path, Path, Path]:
    return files.ca, files.cert, files.key


def test_files_that_cannot_be_used_change_nothing(tmp_path: Path) -> None:
    create_authority(tmp_path)
    live = LiveTls(issue(tmp_path, "west"))
    before = live.server
    live.files.cert.write_text("half of a certifi")
    with pytest.raises(ConfigError, match="not a certificate"):
        live.read(live.files)
    assert live.server is before
    with pytest.raises(ConfigError, match="prfaas certs revoke"):
        live.read(TlsFiles(*_paths(issue(tmp_path, "west")), tmp_path / "none.pem"))


def test_what_was_written_on_when_half_of_it_was_refused_is_looked_at_again(tmp_path: Path) -> None:
    create_authority(tmp_path)
    live = LiveTls(files := issue(tmp_path, "west"))
    whole = issue(tmp_path, "west").cert.read_bytes()
    files.cert.write_bytes(whole[:100])
    with pytest.raises(ConfigError, match="not a certificate and its key"):
        live.read(files)
    files.cert.write_bytes(whole)
    live.refuse_until_changed()
    assert live.changed()
    live.read(files)
    assert not live.changed()


def _with(file: Path, was: bytes, now: bytes) -> bytes:
    """The same in PEM, of which OpenSSL reads no more than before."""
    kind, text = file.read_text().split("-----", 2)[1:]
    der = base64.b64decode(text.split("-----")[0])
    assert der.count(was) >= 1
    odd = base64.encodebytes(der.replace(was, now)).decode()
    return f"-----{kind}-----\n{odd}-----{kind.replace('BEGIN', 'END')}-----\n".encode()


EC_KEY, OTHER_KEY = bytes.fromhex("06072a8648ce3d0201"), bytes.fromhex("06072a8648ce3d0209")
THIRD_VERSION, NO_VERSION = bytes.fromhex("a003020102"), bytes.fromhex("a003020107")


def test_files_of_which_only_openssl_makes_sense_are_read_or_refused(tmp_path: Path) -> None:
    """As one of an authority whose kind of key is new."""
    for name in ("", "other", "odd"):
        create_authority(tmp_path / name)
    files = TlsFiles(*_paths(issue(tmp_path, "west")), renew_list(tmp_path))
    live, own = LiveTls(files), files.ca.read_bytes()
    files.ca.write_bytes(own + _with(tmp_path / "other" / "ca.pem", EC_KEY, OTHER_KEY))
    live.read(files)
    assert "has no list of CN=" in str(live.lack)
    files.ca.write_bytes(own + _with(tmp_path / "odd" / "ca.pem", THIRD_VERSION, NO_VERSION))
    with pytest.raises(ConfigError, match=r"not a .*certificate in PEM: 7 is not a valid"):
        live.read(files)


def test_who_is_revoked_gets_out_also_while_our_own_certificate_cannot_be_used(
    agents: Agents, tmp_path: Path
) -> None:
    """It is just being exchanged, and its key has not come."""
    create_authority(tmp_path)
    west_files, east_files, other = (issue(tmp_path, n) for n in ("west", "east", "other"))
    east_files, other = put(east_files, tmp_path / "e"), put(other, tmp_path / "o")
    west = agents.open("west", TlsFiles(*_paths(west_files), renew_list(tmp_path)))
    east, another = (
        agents.open(n, f, to=west) for n, f in (("east", east_files), ("other", other))
    )
    assert agents.send(east, WAIT_S) == agents.send(another, WAIT_S) == "complete"
    revoke(tmp_path, "east")
    issue(tmp_path, "west").key.write_text("half of a k")
    assert west.tls is not None
    with pytest.raises(ConfigError, match="not a certificate and its key"):
        west.tls.read(west.tls.files)
    [said] = west.tls.end_untrusted(now=time.time())
    assert "CN=east ended: its certificate is revoked" in said
    assert agents.send(east, 1.5) != "complete"
    assert agents.send(another, WAIT_S) == "complete"


def test_what_expires_is_warned_of_thirty_days_ahead(tmp_path: Path) -> None:
    create_authority(tmp_path)
    live = LiveTls(issue(tmp_path, "west", days=40))
    now, found = time.time(), live.expiries.values()
    assert expiring(found, now=now) == []
    (line,) = expiring(found, now=now + 11 * 86400)
    assert "west.pem expires in 29 days" in line
    assert "has expired" in expiring(found, now=now + 41 * 86400)[0]


def test_what_is_not_valid_yet_is_warned_of(tmp_path: Path) -> None:
    """Its own process takes it, by a clock that is slow, and everybody else refuses it."""
    create_authority(tmp_path)
    west = issue(tmp_path, "west")
    live = LiveTls(msgspec.structs.replace(west, crl=renew_list(tmp_path)))
    early = expiring(live.expiries.values(), now=time.time() - 86400)
    assert len(early) == 3
    for name, line in zip(("ca.pem", "west.pem", "crl.pem"), early, strict=True):
        assert f"{name} is not valid before 20" in line


def test_an_old_revocation_list_lets_nobody_in_and_is_warned_of(tmp_path: Path) -> None:
    create_authority(tmp_path)
    west = issue(tmp_path, "west")
    issue(tmp_path, "east")
    live = LiveTls(msgspec.structs.replace(west, crl=revoke(tmp_path, "east")))
    now = time.time()
    assert live.expiries["crl"].at == pytest.approx(now + 365 * 86400, abs=600)
    assert not [x for x in expiring(live.expiries.values(), now=now + 330 * 86400) if "crl" in x]
    (line,) = [x for x in expiring(live.expiries.values(), now=now + 340 * 86400) if "crl" in x]
    assert "expires in 25 days, and nobody is let in from then on" in line


def _authority_below(root_key: ec.EllipticCurvePrivateKey | None, issuer: str, name: str):  # type: ignore[no-untyped-def]
    key = ec.generate_private_key(ec.SECP256R1())
    return key, _signed(key, name, issuer, root_key or key, ca=True)


def _signed(  # type: ignore[no-untyped-def]
    key: ec.EllipticCurvePrivateKey, name: str, issuer: str, by: ec.EllipticCurvePrivateKey,
    *, ca: bool = False, uri: str | None = None,
):  # fmt: skip
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if uri is not None:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(by, hashes.SHA256())


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _list_of(
    authority: x509.Certificate, key: ec.EllipticCurvePrivateKey, *revoked: x509.Certificate
) -> bytes:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateRevocationListBuilder().issuer_name(authority.subject)
    builder = builder.last_update(now).next_update(now + datetime.timedelta(days=1))
    for one in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(one.serial_number)
        builder = builder.add_revoked_certificate(entry.revocation_date(now).build())
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


class Chains:
    """Certificates of an authority below a root, whose trust ``ca.pem`` says."""

    def __init__(self, tmp_path: Path, root: str = "root") -> None:
        self._tmp_path = tmp_path
        self.root_key, self.root = _authority_below(None, root, root)
        self._middle = f"middle of {root}"
        self.middle_key, self.middle = _authority_below(self.root_key, root, self._middle)

    def files(self, agent: str, trust: x509.Certificate, domain: str = "example.org") -> TlsFiles:
        key = ec.generate_private_key(ec.SECP256R1())
        uri = f"spiffe://{domain}/prfaas/{agent}"
        leaf = _signed(key, agent, self._middle, self.middle_key, uri=uri)
        at = self._tmp_path / f"{agent}-{domain}-{trust.serial_number}"
        at.mkdir()
        (at / "ca.pem").write_bytes(_pem(trust))
        (at / "cert.pem").write_bytes(_pem(leaf) + _pem(self.middle))
        (at / "key.pem").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        names = "spiffe://example.org/prfaas/{agent}"
        return TlsFiles(at / "ca.pem", at / "cert.pem", at / "key.pem", None, names)


def test_names_and_intermediates_of_another_authority(agents: Agents, tmp_path: Path) -> None:
    chains = Chains(tmp_path)
    files, root, middle = chains.files, chains.root, chains.middle
    west = agents.open("west", files("west", root))
    assert agents.send(agents.open("east", files("east", root), to=west), WAIT_S) == "complete"
    below = agents.open("east", files("east", middle), to=west)
    assert agents.send(below, WAIT_S) == "complete", "who trusts the authority below the root"
    other = agents.open("east", files("east", root, "evil.example"), to=west)
    assert agents.send(other, 1.5) != "complete"


def test_who_is_of_a_revoked_authority_between_is_not_let_in(
    agents: Agents, tmp_path: Path
) -> None:
    """The list of the authority that signs says nothing of itself: the root's does."""
    chains = Chains(tmp_path)
    listed = tmp_path / "crl.pem"
    nobody = _list_of(chains.middle, chains.middle_key)
    listed.write_bytes(nobody + _list_of(chains.root, chains.root_key))
    west_files = msgspec.structs.replace(chains.files("west", chains.root), crl=listed)
    west = agents.open("west", west_files)
    east = agents.open("east", chains.files("east", chains.root), to=west)
    assert agents.send(east, WAIT_S) == "complete"
    assert west.tls is not None

    listed.write_bytes(nobody + _list_of(chains.root, chains.root_key, chains.middle))
    west.tls.read(west_files)
    [said] = west.tls.end_untrusted(now=time.time())
    assert "that of CN=middle of root above it is revoked" in said
    assert agents.send(east, 1.0) != "complete"


def test_who_dials_looks_at_authorities_between_as_well(agents: Agents, tmp_path: Path) -> None:
    chains = Chains(tmp_path)
    listed = tmp_path / "crl.pem"
    listed.write_bytes(
        _list_of(chains.middle, chains.middle_key)
        + _list_of(chains.root, chains.root_key, chains.middle)
    )
    west = agents.open("west", chains.files("west", chains.root))
    files = msgspec.structs.replace(chains.files("east", chains.root), crl=listed)
    assert agents.send(agents.open("east", files, to=west), 1.5) != "complete"


async def test_gateways_and_tools_look_at_authorities_between_as_well(tmp_path: Path) -> None:
    chains = Chains(tmp_path)
    listed = tmp_path / "crl.pem"
    nobody = _list_of(chains.middle, chains.middle_key)
    files = msgspec.structs.replace(chains.files("gateway", chains.root), crl=listed)
    shows = server_context(chains.files("west", chains.root))
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=shows)
    host, port = server.sockets[0].getsockname()

    async def dials() -> None:
        for context in (
            peer_context(files, "west", Address(host, port)),
            named_context(files, "west", shows=True),
        ):
            _, writer = await asyncio.open_connection(host, port, ssl=context)
            try:
                if isinstance(context, PeerContext):
                    check_server(context, writer.transport)
            finally:
                writer.transport.abort()

    listed.write_bytes(nobody + _list_of(chains.root, chains.root_key))
    await dials()
    listed.write_bytes(nobody + _list_of(chains.root, chains.root_key, chains.middle))
    with pytest.raises(PeerError, match="that of CN=middle of root above it is revoked"):
        await dials()
    with pytest.raises(ssl.SSLCertVerificationError, match="above it is revoked"):
        await asyncio.open_connection(host, port, ssl=named_context(files, "west", shows=True))
    server.close()


def test_who_is_of_an_authority_below_a_withdrawn_one_is_ended(
    agents: Agents, tmp_path: Path
) -> None:
    old, new = Chains(tmp_path, "old root"), Chains(tmp_path, "new root")
    used = old.files("west", old.root)
    west = agents.open("west", used)
    east = agents.open("east", old.files("east", old.root), to=west)
    assert agents.send(east, WAIT_S) == "complete"
    assert west.tls is not None

    used.ca.write_bytes(_pem(old.root) + _pem(new.root))
    west.tls.read(used)
    used.ca.write_bytes(_pem(old.root))
    west.tls.read(used)
    assert west.tls.end_untrusted(now=time.time()) == [], "another authority was withdrawn"
    used.ca.write_bytes(_pem(new.root))
    west.tls.read(used)
    [said] = west.tls.end_untrusted(now=time.time())
    assert "of an authority that is not trusted any more" in said
    assert agents.send(east, 1.0) != "complete"


def test_who_was_revoked_after_its_handshake_may_not_begin(agents: Agents, tmp_path: Path) -> None:
    create_authority(tmp_path)
    issue(tmp_path, "mallory")
    files = TlsFiles(*_paths(issue(tmp_path, "west")), revoke(tmp_path, "mallory"))
    west = agents.open("west", files)
    assert west.tls is not None
    address, stolen = parse_address(west.address), client_context(issue(tmp_path, "east"))
    with stolen.wrap_socket(socket.create_connection((address.host, address.port))) as sock:
        revoke(tmp_path, "east")
        west.tls.read(files)
        sock.sendall(control(Kind.HELLO, Hello("east", "west", 1, 0)))
        assert sock.recv(1) == bytes([Kind.REJECT])
    assert west.counters().incoming_connections == 0


def test_every_name_of_the_deployment_file_can_have_a_certificate(
    agents: Agents, tmp_path: Path
) -> None:
    create_authority(tmp_path)
    west = agents.open("west", issue(tmp_path, "west"))
    east = agents.open("east_agent.1", issue(tmp_path, "east_agent.1"), to=west)
    assert agents.send(east, WAIT_S) == "complete"


def test_old_tls_gets_nothing(agents: Agents, tmp_path: Path) -> None:
    create_authority(tmp_path)
    west = agents.open("west", issue(tmp_path, "west"))
    old = client_context(issue(tmp_path, "east"))
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection(parse_address(west.address)) as sock,
        pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"),
    ):
        old.wrap_socket(sock)


def test_a_peer_gets_in_while_a_stranger_knocks_thousands_of_times(
    agents: Agents, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    create_authority(tmp_path)
    west = agents.open("west", issue(tmp_path, "west"), handshake_s=PATIENT_S)
    host, port = parse_address(west.address)
    stop = threading.Event()
    knocked = [0]

    def knock() -> None:
        kept: list[socket.socket] = []
        while not stop.is_set():
            try:
                sock = socket.create_connection((host, port), timeout=2.0)
                sock.sendall((b"", b"\x16\x03", b"GET / HTTP/1.1\r\n\r\n")[knocked[0] % 3])
            except OSError:
                continue
            knocked[0] += 1
            kept.append(sock)
            if len(kept) > 1000:
                kept.pop(0).close()
        for sock in kept:
            sock.close()

    stranger = threading.Thread(target=knock)
    with caplog.at_level(logging.WARNING, "prfaas.link.tcp.acceptor"):
        began = time.monotonic()
        stranger.start()
        try:
            while knocked[0] < 2000:
                time.sleep(0.01)
            # A peer far away: its handshake takes a while, and it is on another address.
            slow = socket.create_connection((host, port), source_address=("127.0.0.2", 0))
            seen = knocked[0]
            while knocked[0] < seen + 2000:
                time.sleep(0.01)
            slow.setblocking(False)
            with pytest.raises(BlockingIOError):
                slow.recv(1)  # It is still there: closed, it would read as empty.
            slow.close()
            east = agents.open("east", issue(tmp_path, "east"), to=west, handshake_s=PATIENT_S)
            assert agents.send(east, WAIT_S) == "complete"
        finally:
            stop.set()
            stranger.join()
        took_s = time.monotonic() - began
    lines = [r for r in caplog.records if "turned away" in r.getMessage()]
    causes = {"closed", "handshake", "unknown", "protocol"}
    assert len(lines) <= (took_s + 1) * len(causes), "one line a second for each cause"


async def test_an_agent_takes_new_certificates_over_by_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    create_authority(tmp_path)
    used = put(issue(tmp_path, "west", days=20), tmp_path / "used")
    settings = AgentSettings(
        name="west", arena_bytes=64 << 16, slot_bytes=1 << 16, export_slots=16, cache_slots=0,
        engines=frozenset({"e"}), socket=tmp_path / "s", admin="127.0.0.1:0",
        link=TcpLinkConfig(name="west", security=used),
    )  # fmt: skip
    agent = Agent(settings)
    with caplog.at_level(logging.INFO, "prfaas.agent.watching"):
        await agent.start()
        try:
            await until(lambda: "cert.pem expires in 20 days" in caplog.text)
            own = used.ca.read_bytes()
            used.ca.write_bytes(own + _with(used.ca, THIRD_VERSION, NO_VERSION))
            await until(lambda: "7 is not a valid X509 version" in caplog.text)
            used.cert.write_text("half of a certifi")
            await until(lambda: "not a certificate and its key" in caplog.text)
            assert "no list of revoked certificates" not in caplog.text
            put(issue(tmp_path, "west", days=300), tmp_path / "used")
            await until(lambda: "no list of revoked certificates is read" in caplog.text)
            await until(lambda: "new certificates are used from now on" in caplog.text)
            async with aiohttp.ClientSession(agent.admin_url) as http:
                page = await (await http.get("/metrics", ssl=client_context(used))).text()
            name = 'prfaas_agent_certificate_expires_timestamp_seconds{file="certificate"} '
            (line,) = [line for line in page.splitlines() if line.startswith(name)]
            assert float(line.removeprefix(name)) > time.time() + 290 * 86400
        finally:
            await agent.close()
