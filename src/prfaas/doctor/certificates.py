"""Certificates of agents and gateways: there, readable, of the right name, private, in force."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from prfaas.core.deployment import AgentConfig, Deployment, GatewayConfig, TlsConfig
from prfaas.core.errors import ConfigError
from prfaas.doctor.finding import Finding, Level, ok
from prfaas.doctor.here import agents_here
from prfaas.tls.context import names_in
from prfaas.tls.expiry import SOON_S, expiring, list_expiry
from prfaas.tls.files import files_in
from prfaas.tls.unlisted import lists_lacking


def check_certificates(deployment: Deployment, *, now: float) -> Iterator[Finding]:
    """Of agents and gateways that have them in the file. Args: now: Unix seconds."""
    moment = datetime.fromtimestamp(now, UTC)
    here = agents_here(deployment)
    for agent in deployment.agents:
        if agent in here or agent.tls is None or Path(agent.tls.cert).exists():
            yield from _of_agent(agent, moment)
    for gateway in deployment.gateways:
        yield from _of_gateway(gateway, moment)
    yield from _lists(deployment)


def _lists(deployment: Deployment) -> Iterator[Finding]:
    """Whoever shares an authority and its list lacks the same."""
    own = [agent.tls for agent in deployment.agents]
    own += [gateway.agent_tls for gateway in deployment.gateways]
    seen: set[tuple[str, str | None]] = set()
    for tls in own:
        if tls is None or (tls.ca, tls.crl) in seen:
            continue
        with suppress(ConfigError):  # It is on another machine, or what is wrong is said already.
            lack = lists_lacking(files_in(tls))
            seen.add((tls.ca, tls.crl))
            if lack is not None:
                yield Finding("revocation", "warning", lack.found, lack.advice)


def _of_gateway(gateway: GatewayConfig, moment: datetime) -> Iterator[Finding]:
    """On the machine that it is on: others have none of its files, and need none."""
    check, own, front = f"certificate of {gateway.name}", gateway.agent_tls, gateway.tls
    if own is not None and Path(own.cert).exists():
        yield from _files(check, own, gateway.certificate_name or gateway.name, moment)
    if front is not None and Path(front.cert).exists():
        yield _certificate(
            check, "certificate for clients", Path(front.cert), moment, of="its authority"
        )
        yield _key(check, Path(front.key))


def _of_agent(agent: AgentConfig, moment: datetime) -> Iterator[Finding]:
    check = f"certificate of {agent.name}"
    if agent.tls is None:
        if agent.plaintext:
            yield Finding(
                check, "warning", "none: the KV link speaks plaintext",
                "only inside a network that you trust; else 'prfaas certs' and 'tls:' in the file",
            )  # fmt: skip
        return
    yield from _files(check, agent.tls, agent.name, moment)


def _files(check: str, tls: TlsConfig, owner: str, moment: datetime) -> Iterator[Finding]:
    for what, name in (("CA", tls.ca), ("certificate", tls.cert)):
        yield _certificate(check, what, Path(name), moment)
    yield from _named(check, Path(tls.cert), files_in(tls).name_of(owner))
    yield _key(check, Path(tls.key))
    kept = Path(tls.cache_key_file)
    if kept.exists() and (found := _key(check, kept)).level != "ok":
        yield found
    if tls.crl is not None:
        yield _revoked(check, Path(tls.crl), moment)


def _revoked(check: str, crl: Path, moment: datetime) -> Finding:
    try:
        found = list_expiry(crl)
    except ConfigError as error:
        return Finding(check, "error", str(error), "'prfaas certs revoke' makes it")
    for line in expiring([found], now=moment.timestamp()):
        level: Level = "error" if found.at < moment.timestamp() else "warning"
        return Finding(check, level, line, "make it anew with 'prfaas certs revoke'")
    return ok(check, f"revocation list {crl} is in force")


def _certificate(
    check: str, what: str, file: Path, moment: datetime, *, of: str = "'prfaas certs'"
) -> Finding:
    """``of``: who makes such a one."""
    try:
        certificate = x509.load_pem_x509_certificate(file.read_bytes())
    except OSError as error:
        return Finding(
            check, "error", f"{what} {file}: {error.strerror}",
            f"make it with {of}, or correct 'tls:' in the file",
        )  # fmt: skip
    except ValueError:
        found = f"{what} {file}: not a PEM certificate"
        return Finding(check, "error", found, f"make it with {of}")
    until = certificate.not_valid_after_utc
    words = f"{what} {file} is valid until {until:%Y-%m-%d}"
    if certificate.not_valid_before_utc > moment:
        return Finding(
            check, "error", f"{what} {file} is not valid before "
            f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC",
            "set this machine's clock right, or wait",
        )  # fmt: skip
    renew = f"renew it with {of} and put the file in its place"
    if until < moment:
        return Finding(check, "error", f"{what} {file} expired {until:%Y-%m-%d}", renew)
    if (until - moment).total_seconds() < SOON_S:
        return Finding(check, "warning", f"{words}: {(until - moment).days} days", renew)
    return ok(check, words)


def _named(check: str, file: Path, name: str) -> Iterator[Finding]:
    """Where it can be read, which is said of it already."""
    with suppress(OSError, ValueError):
        shown = names_in(x509.load_pem_x509_certificate(file.read_bytes()))
        if name not in shown:
            found = ", ".join(sorted(shown)) or "no name"
            yield Finding(
                check, "error",
                f"certificate {file} is issued to {found}, not to {name!r}: nobody lets it in",
                "issue it with 'prfaas certs issue --deployment FILE', or write in 'names' what "
                "certificates call agents and gateways",
            )  # fmt: skip


def _key(check: str, file: Path) -> Finding:
    try:
        mode = file.stat().st_mode
    except OSError as error:
        return Finding(
            check, "error", f"key {file}: {error.strerror}",
            "it lies beside the certificate that 'prfaas certs' made",
        )  # fmt: skip
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        return Finding(check, "warning", f"key {file} is open to others", f"chmod 600 {file}")
    return ok(check, f"key {file} is private")
