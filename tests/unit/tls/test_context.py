"""What a connection checks: files that can be used, and the name in the certificate."""

from __future__ import annotations

import os
import pty
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from prfaas.core.errors import ConfigError, PeerError
from prfaas.tls import authority
from prfaas.tls.context import check_identity, client_context, identity, server_context
from prfaas.tls.expiry import certificate_expiry
from prfaas.tls.files import TlsFiles, files_of
from prfaas.tls.front import front_context
from prfaas.tls.live import LiveTls


@contextmanager
def connected(client: TlsFiles, server: TlsFiles) -> Iterator[ssl.SSLSocket]:
    """The client's end of a connection whose server's end has shaken hands too."""
    with ExitStack() as opened:
        near, far = (opened.enter_context(sock) for sock in socket.socketpair())
        held: list[ssl.SSLSocket] = []

        def serve() -> None:
            held.append(server_context(server).wrap_socket(far, server_side=True))

        thread = threading.Thread(target=serve)
        thread.start()
        made = opened.enter_context(client_context(client).wrap_socket(near))
        thread.join()
        opened.enter_context(held[0]).sendall(b"x")
        yield made


def test_the_identity_is_the_name_in_the_certificate(tmp_path: Path) -> None:
    authority.create_authority(tmp_path)
    east, west = authority.issue(tmp_path, "east"), authority.issue(tmp_path, "west")
    with connected(east, west) as sock:
        assert sock.version() == "TLSv1.3"
        assert identity(sock) == {"west"}
        check_identity(sock, "west")
        with pytest.raises(PeerError, match="certificate is issued to west, not to 'north'"):
            check_identity(sock, "north")


def test_no_connection_is_resumed(tmp_path: Path) -> None:
    """Who was let in once would show no certificate the next time, nor be looked for in lists."""
    authority.create_authority(tmp_path)
    east, west = authority.issue(tmp_path, "east"), authority.issue(tmp_path, "west")
    with connected(east, west) as sock:
        assert sock.recv(1) == b"x"  # Tickets come before it.
        assert sock.session is None or not sock.session.has_ticket


def test_the_first_that_expires_of_a_chain_is_what_is_warned_of(tmp_path: Path) -> None:
    authority.create_authority(tmp_path, days=10)
    files = authority.issue(tmp_path, "east", days=100)
    chain = tmp_path / "chain.pem"
    chain.write_bytes(files.cert.read_bytes() + files.ca.read_bytes())
    assert certificate_expiry(chain).at == certificate_expiry(files.ca).at
    assert certificate_expiry(chain).at < certificate_expiry(files.cert).at


_TAKES_A_TERMINAL = """
import os, sys
from pathlib import Path
from prfaas.core.errors import ConfigError
from prfaas.tls.front import front_context
from prfaas.tls.context import client_context
from prfaas.tls.files import files_of
os.open(os.ttyname(0), os.O_RDWR)  # From now on OpenSSL finds it.
files = files_of(Path(sys.argv[1]), "east")
for read in (lambda: client_context(files), lambda: front_context(files.cert, files.key)):
    try:
        read()
    except ConfigError as error:
        print("refused:", "without a pass phrase" in str(error))
"""


def test_nobody_is_asked_for_the_pass_phrase_of_a_key(tmp_path: Path) -> None:
    authority.create_authority(tmp_path)
    files = authority.issue(tmp_path, "east")
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"a phrase"),
        )
    )
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", _TAKES_A_TERMINAL, str(tmp_path)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    said = b""
    try:
        while b"pass phrase:" not in said and (more := os.read(ours, 4096)):
            said += more
    except OSError:  # So ends what a terminal says.
        pass
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert said.split() == [b"refused:", b"True"] * 2


def test_a_list_that_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    authority.create_authority(tmp_path)
    live = LiveTls(authority.issue(tmp_path, "east"))
    pipe = tmp_path / "crl.pem"
    os.mkfifo(pipe)
    with pytest.raises(ConfigError, match=r"crl.pem: no such file"):
        live.read(TlsFiles(live.files.ca, live.files.cert, live.files.key, pipe))


def test_no_authority_comes_in_the_file_of_a_list(tmp_path: Path) -> None:
    """A list is signed, so that it may be fetched from anywhere; what stands beside it is not."""
    own, other = tmp_path / "own", tmp_path / "other"
    for directory in (own, other):
        authority.create_authority(directory)
    files = msgspec.structs.replace(authority.issue(own, "west"), crl=authority.renew_list(own))
    assert files.crl is not None
    live, listed = LiveTls(files), files.crl.read_bytes()
    files.crl.write_bytes(listed + (other / "ca.pem").read_bytes())
    for read in (lambda: server_context(files), lambda: client_context(files)):
        with pytest.raises(ConfigError, match=r"crl.pem: has a certificate in it"):
            read()
    before = live.server, live.client, live.http_server
    authority.revoke(own, "west")
    files.crl.write_bytes(files.crl.read_bytes() + (other / "ca.pem").read_bytes())
    with pytest.raises(ConfigError, match="has a certificate in it"):
        live.read(files)
    assert (live.server, live.client, live.http_server) == before
    west = x509.load_pem_x509_certificate(files.cert.read_bytes())
    assert live.why_not((west,), now=0) == "its certificate is revoked"
    files.crl.write_bytes(listed + files.ca.read_bytes())  # Whom it trusts already.
    server_context(files)


def test_files_that_cannot_be_looked_at_are_refused(tmp_path: Path) -> None:
    """As in a directory that this user may not enter: a process goes on with what it has."""
    authority.create_authority(tmp_path)
    live, unseen = LiveTls(authority.issue(tmp_path, "east")), tmp_path / ("n" * 300)
    files = live.files
    for other in (
        msgspec.structs.replace(files, ca=unseen),
        msgspec.structs.replace(files, cert=unseen),
        msgspec.structs.replace(files, crl=unseen),
    ):
        with pytest.raises(ConfigError, match="no such file"):
            live.read(other)
    with pytest.raises(ConfigError, match="no such file"):
        front_context(unseen, files.key)


def test_missing_files_name_the_command(tmp_path: Path) -> None:
    for context in (server_context, client_context):
        with pytest.raises(ConfigError, match=r"ca.pem: no such file; 'prfaas certs init'"):
            context(files_of(tmp_path, "a"))


def test_files_that_are_something_else_are_named(tmp_path: Path) -> None:
    authority.create_authority(tmp_path)
    files = authority.issue(tmp_path, "east")
    good = files.ca.read_bytes()
    files.ca.write_text("nothing")
    with pytest.raises(ConfigError, match=r"ca.pem: not a CA certificate in PEM"):
        client_context(files)
    files.ca.write_bytes(good)
    other = authority.issue(tmp_path, "west")
    with pytest.raises(ConfigError, match="not a certificate and its key in PEM"):
        client_context(TlsFiles(files.ca, files.cert, other.key))
