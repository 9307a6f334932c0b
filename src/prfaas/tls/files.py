"""Where an agent's or gateway's certificate lies: the names that `prfaas certs` gives the files."""

from __future__ import annotations

from pathlib import Path

import msgspec

from prfaas.core.deployment import TlsConfig

CA_CERT, CA_KEY, CRL = "ca.pem", "ca-key.pem", "crl.pem"
REPLACED = "replaced"
"""The directory of certificates that newer ones have replaced, a file for each name."""


class TlsFiles(msgspec.Struct, frozen=True):
    """PEM files for TLS 1.3 with mutual authentication, as `prfaas certs` writes them."""

    ca: Path
    cert: Path
    key: Path
    crl: Path | None = None
    """Certificates of the CA that are not accepted any more."""
    names: str = "{agent}"
    """What an agent is called in its certificate: a DNS name, or a URI where it has ``://``."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """Of all that there are."""
        files = (self.ca, self.cert, self.key, self.crl)
        return tuple(file for file in files if file is not None)

    def name_of(self, agent: str) -> str:
        """What an agent's certificate calls it."""
        return self.names.replace("{agent}", agent)


def files_in(config: TlsConfig) -> TlsFiles:
    """The files that a deployment file names."""
    crl = None if config.crl is None else Path(config.crl)
    return TlsFiles(Path(config.ca), Path(config.cert), Path(config.key), crl, config.names)


def files_of(directory: Path, owner: str) -> TlsFiles:
    """The files of an agent or gateway in a directory that `prfaas certs` has written. They may be
    missing: who opens them says so."""
    return TlsFiles(directory / CA_CERT, directory / f"{owner}.pem", directory / f"{owner}-key.pem")
