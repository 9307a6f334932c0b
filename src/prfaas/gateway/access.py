"""Who may ask a gateway for what: tenants, operators, and the record of refusals."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from aiohttp import web

from prfaas.core.deployment import Deployment, FrontTlsConfig, GatewayConfig, TlsConfig
from prfaas.core.errors import ConfigError
from prfaas.core.strict import naming
from prfaas.gateway.agent_client import AgentClient
from prfaas.gateway.credentials import NONE, Credentials, read_credentials
from prfaas.gateway.engine_client import EngineClient
from prfaas.gateway.keys import Keys, check_operator, is_operator
from prfaas.gateway.metrics import GatewayMetrics
from prfaas.gateway.refusals import Refusals
from prfaas.gateway.tenants import ReadTenants, Tenants, keys_as_far_as_read, read_tenants
from prfaas.process.front_door import connections
from prfaas.tls.agents import agent_contexts
from prfaas.tls.context import PeerContext
from prfaas.tls.expiry import Expiry, certificate_expiry, expiring
from prfaas.tls.files import files_in
from prfaas.tls.front import FrontTls, front_context
from prfaas.tls.live import expiries_of
from prfaas.tls.trusted import (
    Authorities,
    OpenTransports,
    Trusted,
    read_authorities,
    read_revoked,
)
from prfaas.tls.unlisted import Lack, lists_lacking

logger = logging.getLogger(__name__)

_WARN_S = 86400.0
_LOOK_S = 1.0


class ReadAccess(NamedTuple):
    """What a file, key files and the environment say."""

    tenants: ReadTenants
    operators: tuple[str, ...]
    tls: ssl.SSLContext | None
    admin_tls: ssl.SSLContext | None
    engines: dict[str, Credentials]
    agents: dict[str, PeerContext]
    authorities: Authorities | None
    """By which agents are believed."""
    lack: Lack | None
    """Of revocation lists."""
    expiries: dict[str, Expiry]
    """Of its own certificates, and the list of revoked ones."""


def read_access(deployment: Deployment) -> ReadAccess:
    """Raises ConfigError, never with a key in its text."""
    config = deployment.gateway
    agents = agent_contexts(deployment)
    with naming("gateway: operators"):
        operators = config.operators.read()
    return ReadAccess(
        read_tenants(config, deployment.gateways),
        operators,
        _shown(config.tls, ssl.TLSVersion.TLSv1_2),
        _shown(config.admin_shows, ssl.TLSVersion.TLSv1_3),
        read_credentials(deployment, agents),
        agents,
        None if config.agent_tls is None else read_authorities(files_in(config.agent_tls)),
        _lacking(config),
        _front_expiries(config) | _agent_expiries(config),
    )


def _shown(
    files: TlsConfig | FrontTlsConfig | None, minimum: ssl.TLSVersion
) -> ssl.SSLContext | None:
    if files is None:
        return None
    return front_context(Path(files.cert), Path(files.key), minimum=minimum)


def _front_expiries(config: GatewayConfig) -> dict[str, Expiry]:
    front = config.tls
    return {} if front is None else {"certificate": certificate_expiry(Path(front.cert))}


def _agent_expiries(config: GatewayConfig) -> dict[str, Expiry]:
    own = config.agent_tls
    found = {} if own is None else expiries_of(files_in(own))
    return {f"agent_{what}": at for what, at in found.items()}


def _lacking(config: GatewayConfig) -> Lack | None:
    return None if config.agent_tls is None else lists_lacking(files_in(config.agent_tls))


class Access:
    """Keys and limits of one gateway; `take` exchanges them while it serves. Raises ConfigError for
    keys that cannot be had."""

    def __init__(self, deployment: Deployment, metrics: GatewayMetrics) -> None:
        read = read_access(deployment)
        self._opened = OpenTransports()
        self._trusted = Trusted()
        self._show(read)
        self.tenants = Tenants(read.tenants)
        self.operators = Keys(read.operators)
        self.refusals = Refusals(metrics)
        self.connections = connections()
        self._metrics, self._taken = metrics, asyncio.Event()
        self._asks_nobody = deployment.gateway.asks_nobody
        self._expiries: dict[str, Expiry] = {}
        self._tell(read.expiries, read.lack)
        self.tls = None if read.tls is None else FrontTls(read.tls)
        self.admin_tls = None if read.admin_tls is None else FrontTls(read.admin_tls)

    def take(self, read: ReadAccess) -> None:
        """From the next request, and connection, on it goes by these."""
        for shown, context in ((self.tls, read.tls), (self.admin_tls, read.admin_tls)):
            if shown is not None and context is not None:
                shown.context = context
        self.tenants.take(read.tenants)
        self.operators.replace(read.operators)
        self._tell(read.expiries, read.lack)
        self._show(read)

    def take_files(self, deployment: Deployment) -> None:
        """Go by the key files, certificates and lists of the deployment that is served as they are
        now, each as far as it can be read: for a new deployment file that is refused. A key that
        was taken away, or a certificate that was revoked, does not wait until that is mended."""
        config, cannot = deployment.gateway, (ConfigError, OSError)
        self.tenants.take_keys(keys_as_far_as_read(config, self.tenants.keys))
        with suppress(*cannot):
            self.operators.replace(config.operators.read())
        own = None if config.agent_tls is None else files_in(config.agent_tls)
        with suppress(*cannot):
            revoked = frozenset() if own is None else read_revoked(own)
            for trusted in (self._trusted, *(a.trusted for a in self._agents.values())):
                trusted.revoke(revoked)
        # What is told of is what is shown: a certificate that cannot be used is not.
        expiries, lack = dict(self._expiries), self._lack
        with suppress(*cannot):
            agents = agent_contexts(deployment)
            engines = read_credentials(deployment, agents, self._engines)
            if own is not None:
                self._trusted.take(read_authorities(own))
            self._show_these(engines, agents)
            expiries, lack = expiries | _agent_expiries(config), _lacking(config)
        with suppress(*cannot):
            context = _shown(config.tls, ssl.TLSVersion.TLSv1_2)
            if self.tls is not None and context is not None:
                self.tls.context = context
                expiries |= _front_expiries(config)
        with suppress(*cannot):
            context = _shown(config.admin_shows, ssl.TLSVersion.TLSv1_3)
            if self.admin_tls is not None and context is not None:
                self.admin_tls.context = context
        self._tell(expiries, lack)

    def _show(self, read: ReadAccess) -> None:
        self._show_these(read.engines, read.agents)
        if read.authorities is not None:
            self._trusted.take(read.authorities)

    def _show_these(self, engines: dict[str, Credentials], agents: dict[str, PeerContext]) -> None:
        self._engines, self._agents = engines, agents
        for context in agents.values():
            context.opened = self._opened

    def _tell(self, expiries: dict[str, Expiry], lack: Lack | None) -> None:
        for file in self._expiries.keys() - expiries.keys():
            self._metrics.certificate_expires.remove(file)
        self._expiries, self._lack = expiries, lack
        for file, expiry in expiries.items():
            self._metrics.certificate_expires.labels(file).set(expiry.at)
        self._taken.set()

    async def warn(self) -> None:
        """Each day, and when they are exchanged, of those of its own certificates that expire soon,
        of lists that lack, and of keys. For ever."""
        while True:
            self._taken.clear()
            for line in expiring(self._expiries.values(), now=time.time()):
                logger.warning("%s", line)
            if self._lack is not None:
                logger.warning("%s", self._lack)
            if self._asks_nobody is not None and not self.tenants:
                logger.warning("%s; give it api_keys_file, or tenants", self._asks_nobody)
            with suppress(TimeoutError):
                async with asyncio.timeout(_WARN_S):
                    await self._taken.wait()

    async def end_untrusted(self) -> None:
        """End open connections to agents, and through them, that would not be made any more: within
        a second of what was read. For ever."""
        while True:
            for line in self._opened.end_untrusted(self._trusted, now=time.time()):
                logger.warning("%s", line)
            await asyncio.sleep(_LOOK_S)

    def show_to(
        self, engines: Mapping[str, EngineClient], agents: Mapping[str, AgentClient]
    ) -> None:
        """Give these clients what they show to their engines and agents."""
        for name, agent in agents.items():
            agent.tls = self._agents.get(name)
        for name, engine in engines.items():
            engine.take(self._engines.get(name, NONE))

    @property
    def tells(self) -> bool:
        """Whether what became of a request says nothing of other tenants'."""
        return self.tenants.isolated or not self.tenants.several

    def is_operator(self, request: web.Request) -> bool:
        """Whether it may see and do what operators may."""
        return is_operator(request, self.operators, clients=bool(self.tenants))

    def check_operator(self, request: web.Request) -> None:
        """Raise RequestRefused (401, 403) where it may not do what operators may."""
        check_operator(request, self.operators, clients=bool(self.tenants))
