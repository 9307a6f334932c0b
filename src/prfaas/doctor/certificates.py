"""Certificates of the agents: there, readable, of the right name, private, not about to expire."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from prfaas.core.deployment import AgentConfig, Deployment
from prfaas.doctor.finding import Finding, ok

_SOON = timedelta(days=30)


def check_certificates(deployment: Deployment, *, now: float) -> Iterator[Finding]:
    """Of every agent that has them in the file. Args: now: Unix seconds."""
    moment = datetime.fromtimestamp(now, UTC)
    for agent in deployment.agents:
        yield from _of_agent(agent, moment)


def _of_agent(agent: AgentConfig, moment: datetime) -> Iterator[Finding]:
    check = f"certificate of {agent.name}"
    if agent.tls is None:
        if agent.plaintext:
            yield Finding(
                check, "warning", "none: the KV link speaks plaintext",
                "only inside a network that you trust; else 'prfaas certs' and 'tls:' in the file",
            )  # fmt: skip
        return
    for what, name in (("CA", agent.tls.ca), ("certificate", agent.tls.cert)):
        yield _certificate(check, what, Path(name), moment)
    yield _key(check, Path(agent.tls.key))


def _certificate(check: str, what: str, file: Path, moment: datetime) -> Finding:
    try:
        certificate = x509.load_pem_x509_certificate(file.read_bytes())
    except OSError as error:
        return Finding(
            check, "error", f"{what} {file}: {error.strerror}",
            "make it with 'prfaas certs', or correct 'tls:' in the file",
        )  # fmt: skip
    except ValueError:
        return Finding(
            check, "error", f"{what} {file}: not a PEM certificate", "make it with 'prfaas certs'"
        )
    until = certificate.not_valid_after_utc
    words = f"{what} {file} is valid until {until:%Y-%m-%d}"
    if certificate.not_valid_before_utc > moment:
        return Finding(
            check, "error", f"{what} {file} is not valid before "
            f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC",
            "set this machine's clock right, or wait",
        )  # fmt: skip
    renew = "renew it with 'prfaas certs' and put the file in its place"
    if until < moment:
        return Finding(check, "error", f"{what} {file} expired {until:%Y-%m-%d}", renew)
    if until - moment < _SOON:
        return Finding(check, "warning", f"{words}: {(until - moment).days} days", renew)
    return ok(check, words)


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
