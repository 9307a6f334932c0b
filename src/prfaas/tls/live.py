"""An agent's certificates while it runs: exchanged and revoked without a restart."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
import weakref
from pathlib import Path

from prfaas.core.errors import ConfigError, PeerError
from prfaas.tls.context import KV_LINK, check_identity, client_context, server_context
from prfaas.tls.expiry import Expiry, certificate_expiry, list_expiry
from prfaas.tls.files import TlsFiles
from prfaas.tls.records import tell_records
from prfaas.tls.trusted import (
    Shown,
    Trusted,
    name_in,
    read_authorities,
    read_revoked,
    shown_by,
)
from prfaas.tls.unlisted import lists_lacking

FileStamp = tuple[int, int, int]
Stamp = tuple[FileStamp | None, ...]


class LiveTls:
    """What connections that begin now are made with. Thread-safe: all contexts are exchanged
    whole. ``version`` grows with each reading. Raises ConfigError naming the file that cannot be
    used."""

    version = 0
    whole = False
    """Whether all of ``files`` could be read as they were when they were looked at last."""

    def __init__(self, files: TlsFiles) -> None:
        self.files = files
        self._lock = threading.Lock()
        self._open: weakref.WeakKeyDictionary[ssl.SSLSocket, Shown]
        self._open = weakref.WeakKeyDictionary()
        self.trusted = Trusted()
        self.read(files)

    def read(self, files: TlsFiles) -> None:
        """Use the files as they are now. Connections that are open stay so until `end_untrusted`.
        Raises ConfigError, having changed nothing but who is revoked: that does not wait until
        somebody has mended our own certificate."""
        self._tried = stamp = stamp_of(files)
        try:
            server, client = server_context(files), client_context(files)
            client.set_alpn_protocols([KV_LINK])
            http_server = tell_records(server_context(files))
            expiries, lack = expiries_of(files), lists_lacking(files)
            found = read_authorities(files)
        except ConfigError:
            self.whole = self.whole and files != self.files
            with contextlib.suppress(ConfigError):
                self.revoke(files)
            raise
        self.expiries, self.lack = expiries, lack
        self.trusted.take(found)
        self.server, self.client, self.files, self._stamp = server, client, files, stamp
        self.http_server = http_server
        self.whole = True
        self.version += 1

    def revoke(self, files: TlsFiles) -> None:
        """Trust no more who is on the lists as they are now, and go on by all else. Raises
        ConfigError naming the list that cannot be used."""
        self.version += self.trusted.revoke(read_revoked(files))

    def refuse_until_changed(self) -> None:
        """The files as they were when they were read last cannot be used: do not look at them
        again. What was written since then may be the rest of them."""
        self._stamp = self._tried

    def changed(self) -> bool:
        """Whether a file is another than the one that is used."""
        return stamp_of(self.files) != self._stamp

    def check_peer(self, sock: ssl.SSLSocket, agent: str) -> None:
        """Raise PeerError unless the peer's certificate is issued to this agent, and still good:
        its handshake may have been before it was revoked."""
        check_identity(sock, self.files.name_of(agent))
        shown = shown_by(sock)
        why = self.why_not(shown, now=time.time())
        if why is not None:
            raise PeerError(why)
        with self._lock:
            self._open[sock] = shown

    def why_not(self, shown: Shown, *, now: float) -> str | None:
        """See `Trusted`."""
        return self.trusted.why_not(shown, now=now)

    def end_untrusted(self, *, now: float) -> list[str]:
        """End open connections of `check_peer` that would not be made any more; a line of the log
        for each. ``now``: Unix seconds."""
        with self._lock:
            open_now = list(self._open.items())
        ended = []
        for sock, shown in open_now:
            why = self.why_not(shown, now=now)
            if why is None or sock.fileno() < 0:
                continue
            with contextlib.suppress(OSError):  # Its thread reads an end, and closes it.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
                ended.append(f"connection with {name_in(shown)} ended: {why}")
            with self._lock:
                self._open.pop(sock, None)
        return ended


def expiries_of(files: TlsFiles) -> dict[str, Expiry]:
    """By what they are. Raises ConfigError."""
    found = {"ca": certificate_expiry(files.ca), "certificate": certificate_expiry(files.cert)}
    return found if files.crl is None else found | {"crl": list_expiry(files.crl)}


def stamp_of(files: TlsFiles) -> Stamp:
    """What changes with any of them."""
    return tuple(stamp_of_file(path) for path in files.paths)


def stamp_of_file(path: Path) -> FileStamp | None:
    """What changes with a file; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
