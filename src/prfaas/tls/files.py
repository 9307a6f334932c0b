"""Where an agent's certificate lies: the names that `prfaas certs` gives the files."""

from __future__ import annotations

from pathlib import Path

import msgspec

CA_CERT, CA_KEY = "ca.pem", "ca-key.pem"


class TlsFiles(msgspec.Struct, frozen=True):
    """PEM files for TLS 1.3 with mutual authentication, as `prfaas certs` writes them."""

    ca: Path
    cert: Path
    key: Path


def files_of(directory: Path, agent: str) -> TlsFiles:
    """The files of ``agent`` in a directory that `prfaas certs` has written. They may be missing:
    who opens them says so."""
    return TlsFiles(directory / CA_CERT, directory / f"{agent}.pem", directory / f"{agent}-key.pem")
