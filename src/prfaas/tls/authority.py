"""A deployment's private certificate authority, and the certificates of its agents and gateways.

Keys are ECDSA P-256. The CA signs nothing else; a certificate serves both sides of a connection and
carries its owner's name in the deployment file as DNS subject alternative name.
"""

from __future__ import annotations

import datetime
import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from prfaas.core.deployment.agents import CACHE_KEY
from prfaas.core.errors import CallerError, ConfigError
from prfaas.tls.expiry import read_lists
from prfaas.tls.files import CA_CERT, CA_KEY, CRL, REPLACED, TlsFiles, files_of

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
"""Every name that the deployment file takes. Names are compared by letters, never resolved."""
_OTHERS_FILES = re.compile(r"ca|crl|.*-key", re.IGNORECASE)
"""Names whose certificate would take the place of the authority's, of its list or of a key."""
_CRL_DAYS = 365
_CLOCK_SKEW = datetime.timedelta(minutes=5)


def create_authority(directory: Path, *, days: int = 3650) -> Path:
    """Write a new CA into ``directory``; returns its certificate's path.

    Raises CallerError if there is one already: replacing it would lock every agent out; OSError if
    the directory cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with _alone(directory):
        _create_authority(directory, days)
    make_cache_key(directory)
    return directory / CA_CERT


def _create_authority(directory: Path, days: int) -> None:
    if (directory / CA_CERT).exists() or (directory / CA_KEY).exists():
        raise CallerError(
            f"{directory} has a CA already; use it with 'prfaas certs issue', "
            "or choose another directory"
        )
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "PrfaaS KV link CA")])
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip
    builder = (
        _builder(name, name, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    _write(directory / CA_KEY, _pem(key), secret=True)
    certificate = builder.sign(key, hashes.SHA256())
    _write(directory / CA_CERT, certificate.public_bytes(serialization.Encoding.PEM))


def make_cache_key(directory: Path) -> Path:
    """Write what cache events of the deployment are keyed with, the same for every agent and
    gateway; returns its path. One that is there stays."""
    path = directory / CACHE_KEY
    with _alone(directory):
        if not path.exists():
            _write(path, secrets.token_hex(32).encode() + b"\n", secret=True)
    return path


def issue(directory: Path, owner: str, *, days: int = 365, called: str | None = None) -> TlsFiles:
    """Issue a certificate and its key into ``directory``, signed by the CA there, for the agent or
    gateway ``owner``; an older one of the same name is replaced, and can still be revoked. ``days``
    below zero makes an expired one. ``called``: see `TlsFiles.name_of`; None: by its name.

    Raises CallerError for a name that cannot be one, ConfigError if there is no usable CA.
    """
    _check_name(owner)
    shown = _general_name(called or owner)
    ca_key, ca = _authority(directory)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, owner)])
    both_sides = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    ca_public = ca_key.public_key()
    builder = (
        _builder(name, ca.subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([shown]), critical=False)
        .add_extension(x509.ExtendedKeyUsage(both_sides), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_public), critical=False
        )
    )
    files = files_of(directory, owner)
    certificate = builder.sign(ca_key, hashes.SHA256())
    with _alone(directory):
        _set_aside(files.cert)
        _write(files.key, _pem(key), secret=True)
        _write(files.cert, certificate.public_bytes(serialization.Encoding.PEM))
    return files


def _check_name(owner: str) -> None:
    if not _NAME.fullmatch(owner):
        raise CallerError(
            f"name {owner!r} must be letters, digits, '.', '_' and '-', at most 63, "
            "beginning with a letter or digit, as in the deployment file"
        )
    if _OTHERS_FILES.fullmatch(owner):
        raise CallerError(
            f"name {owner!r}: {owner}.pem is, or may be, the file of something else here "
            "(ca.pem, crl.pem, NAME-key.pem); choose another name"
        )


def _general_name(called: str) -> x509.GeneralName:
    try:
        if "://" in called:
            return x509.UniformResourceIdentifier(called)
        return x509.DNSName(called)
    except ValueError as error:
        raise CallerError(f"no certificate can call its owner {called!r}: {error}") from error


def revoke(directory: Path, owner: str, *, replaced: bool = False) -> Path:
    """Add ``owner``'s certificates to the CA's revocation list, those that newer ones have replaced
    as well; returns that file's path. The list is to be given to every agent and gateway, and made
    anew within a year. ``replaced``: those alone; the newest stays good.

    Raises CallerError for a name that cannot be one: with the authority's own certificate on the
    list nobody would be let in any more; ConfigError without a usable CA, certificate or list.
    """
    _check_name(owner)
    _authority(directory)
    cert = files_of(directory, owner).cert
    older = _replaced(cert)
    with _alone(directory):
        paths = [older] if replaced else [older, cert] if older.exists() else [cert]
        try:
            pem = b"".join(path.read_bytes() for path in paths)
            found = x509.load_pem_x509_certificates(pem)
        except (OSError, ValueError) as error:
            raise ConfigError(f"no certificate of {owner!r} is known here: {error}") from error
        return _renew_list(directory, frozenset(each.serial_number for each in found))


def renew_list(directory: Path) -> Path:
    """Make the CA's revocation list anew, with nobody more on it; returns its path. Lists of other
    authorities in that file stay in it. Raises ConfigError without a usable CA or list."""
    _authority(directory)
    with _alone(directory):
        return _renew_list(directory, frozenset())


def _renew_list(directory: Path, serials: frozenset[int]) -> Path:
    ca_key, ca = _authority(directory)
    crl = directory / CRL
    lists = read_lists(crl) if crl.exists() else []
    own = [each for each in lists if each.is_signature_valid(ca_key.public_key())]
    known = [one for each in own for one in each]
    now = datetime.datetime.now(datetime.UTC)
    # Every CA that is made here has the same name: the key says whose list it is, where
    # certificates of two are let in.
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(ca.subject)
        .last_update(now - _CLOCK_SKEW)
        .next_update(now + datetime.timedelta(days=_CRL_DAYS))
        .add_extension(issuer, critical=False)
    )
    for one in known:
        if one.serial_number not in serials:
            builder = builder.add_revoked_certificate(one)
    for serial in sorted(serials):
        revoked = x509.RevokedCertificateBuilder().serial_number(serial)
        builder = builder.add_revoked_certificate(revoked.revocation_date(now).build())
    made = builder.sign(ca_key, hashes.SHA256())
    kept = [made, *(each for each in lists if each not in own)]
    _write(crl, b"".join(each.public_bytes(serialization.Encoding.PEM) for each in kept))
    return crl


def _replaced(cert: Path) -> Path:
    return cert.parent / REPLACED / cert.name


def _set_aside(cert: Path) -> None:
    """Whoever has its key can use it until it expires: `revoke` must know of it."""
    try:
        old = cert.read_bytes()
        x509.load_pem_x509_certificate(old)
    except (OSError, ValueError):
        return  # There is none.
    kept = _replaced(cert)
    kept.parent.mkdir(exist_ok=True)
    _write(kept, (kept.read_bytes() if kept.exists() else b"") + old)


def _authority(directory: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    try:
        key = serialization.load_pem_private_key((directory / CA_KEY).read_bytes(), None)
        certificates = x509.load_pem_x509_certificates((directory / CA_CERT).read_bytes())
    except FileNotFoundError as error:
        raise ConfigError(
            f"no CA in {directory} ({error.filename} is missing); make one with 'prfaas certs init'"
        ) from error
    except TypeError as error:
        raise ConfigError(
            f"{directory / CA_KEY} has a pass phrase; take it off while certificates are made, in "
            "a directory that nobody else can read"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"the CA in {directory} cannot be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{directory / CA_KEY} is not an elliptic-curve key")
    for certificate in certificates:  # Beside it there may be that of an authority before it.
        if certificate.public_key() == key.public_key():
            return key, certificate
    raise ConfigError(
        f"{directory / CA_KEY} is the key of none of {directory / CA_CERT}: what it signs nobody "
        "lets in"
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    try:
        until = now + datetime.timedelta(days=days)
    except OverflowError as error:
        raise CallerError(f"{days} days from now is no date; write fewer days") from error
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, until) - _CLOCK_SKEW)
        .not_valid_after(until)
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Others that write there wait: of several that add to one list at a time, each would leave out
    whom the others have; of two that make an authority, one would have the key and the other the
    certificate."""
    held = os.open(directory, os.O_RDONLY)
    try:
        with suppress(OSError):  # Some file systems of other machines have no such locks.
            fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def _write(path: Path, content: bytes, *, secret: bool = False) -> None:
    """Write whole files only, and a key never readable by others, not even for a moment."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    mode = 0o600 if secret else 0o644
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
    temporary.replace(path)
