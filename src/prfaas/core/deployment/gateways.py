"""A gateway, as the deployment file describes it."""

from __future__ import annotations

from contextlib import suppress
from math import inf
from typing import Annotated

import msgspec

from prfaas.core.addresses import Address, on_this_machine, parse_address, stays_here
from prfaas.core.deployment.agents import TlsConfig
from prfaas.core.deployment.engines import Positive, ProcessName
from prfaas.core.deployment.secrets import KeySource
from prfaas.core.deployment.tenants import DEFAULT_TENANT, TenantConfig
from prfaas.core.errors import ConfigError
from prfaas.core.strict import Strict
from prfaas.core.units import parse_bytes, parse_duration, parse_tokens

MOST_OUTPUT_S = 3600.0
"""An answer that is not streamed shows its first byte only when it is complete, so its deadline
grows with every token it may have. Up to an hour: where ``max_tokens`` is all that the model could
say, days would say nothing."""
MOST_WORKERS = 64
"""As many gateways as an agent keeps sessions of."""


class FrontTlsConfig(Strict, frozen=True):
    """PEM files of a gateway's own address. ``ca`` is for our own tools, where the certificate is
    of no authority that their machine trusts."""

    cert: str
    key: str
    ca: str | None = None


class GatewayConfig(Strict, frozen=True):
    """An OpenAI endpoint. A deployment has one (``gateway:``) or several (``gateways:``)."""

    name: ProcessName = "gateway"
    listen: str = "127.0.0.1:8000"
    """Where it is bound."""
    advertise: str | None = None
    """Where others reach it; None: at ``listen``."""
    tls: FrontTlsConfig | None = None
    """Without it clients speak plaintext: for this machine, or behind a proxy that has TLS."""
    plaintext: bool = False
    """Whether other machines may speak plaintext to its addresses that have no certificate:
    ``listen`` without ``tls``, ``admin`` without ``agent_tls``. For behind a proxy that has TLS, or
    a network that protects them itself."""
    agent_tls: TlsConfig | None = None
    """What it shows to agents, in its own name, and whom it takes for one; needed where an agent
    has ``tls``."""
    certificate_name: str | None = None
    """What that certificate calls it, where it is not its own name: several gateways that come and
    go may have one name, and a certificate each."""
    admin: str | None = None
    """Where ``/ready``, ``/metrics``, ``/requests`` and ``/drain`` are bound, and then nowhere
    else; None: at ``listen``. Off the loopback it shows the certificate of ``agent_tls``."""
    workers: Annotated[int, msgspec.Meta(ge=1, le=MOST_WORKERS)] = 1
    """Processes that share ``listen``, each a gateway of its own: limits are of each. More than one
    need ``admin``: there is the first, at the ports after it are the others."""
    cors_origins: tuple[str, ...] = ()
    """Origins of web pages that may ask from a browser; ``*``: of all."""
    near: str | None = None
    """The PD cluster it stands beside: asked first, others while that one is full."""
    api_keys: tuple[str, ...] = ()
    """Of one tenant, ``default``. Without any, and without tenants, nobody needs a key."""
    api_keys_file: str | None = None
    """More of them, one a line."""
    api_keys_env: str | None = None
    """More of them, in an environment variable."""
    tenants: tuple[TenantConfig, ...] = ()
    isolate_caches: bool | None = None
    """Whether each tenant has a prefix cache of its own; None: each that has a name, and all as
    soon as the gateways of the file have two."""
    operator_keys: tuple[str, ...] = ()
    """Who carries one of them may drain engines; without any only this machine may."""
    operator_keys_file: str | None = None
    operator_keys_env: str | None = None
    request_deadline: str = "300 s"
    """From arrival to the first token; a request that cannot make it gets an error."""
    keepalive: str | None = "10 s"
    """How often a client whose stream has not begun gets a comment, so that no proxy cuts it. The
    first comes with status 200: what fails later is an error event. None: never."""
    max_body: str = "16 MiB"
    max_inflight_requests: Positive = 1024
    max_bodies: str = "1 GiB"
    """Of all bodies that are held at a time, so that `max_inflight_requests` large ones (16 GiB by
    the defaults) are not."""
    max_waiting_tokens: str | int = "16M"
    """Prompt tokens of all requests that wait for an engine: what a prompt takes of this process is
    by its tokens. 128 prompts of 128K; a fleet that prefills 100K tokens/s needs 160 s for them."""
    max_wait: str | None = None
    """How long a request may have to wait for a decode slot, by the queues at its arrival; what
    would wait longer gets 429 at once. None: as long as its deadline lets it."""
    max_index_blocks: Positive = 4_194_304
    """Distinct KV blocks whose holders are known, at about 75 bytes each."""
    drain: str = "25 s"
    """How long answers under way may go on after SIGTERM. Below the 30 s after which Kubernetes
    kills, so that what is cut can still be told so."""

    @property
    def client_keys(self) -> KeySource:
        """Where the keys of tenant ``default`` come from."""
        return KeySource(written=self.api_keys, file=self.api_keys_file, env=self.api_keys_env)

    @property
    def tenant_keys(self) -> dict[str, KeySource]:
        """Of all whom it lets in, by name, where their keys come from."""
        named = {tenant.name: tenant.keys for tenant in self.tenants}
        return (
            {DEFAULT_TENANT: self.client_keys, **named} if self.client_keys or not named else named
        )

    @property
    def asks_nobody(self) -> str | None:
        """What to say of it where other machines reach it and none of its clients is asked for a
        key; None where that is not so. Raises ConfigError."""
        if any(self.tenant_keys.values()) or stays_here(parse_address(self.listen).host):
            return None
        return f"whoever reaches {self.listen} is answered: no client is asked for a key"

    @property
    def operators(self) -> KeySource:
        """Where operators' keys come from."""
        return KeySource(
            written=self.operator_keys, file=self.operator_keys_file, env=self.operator_keys_env
        )

    @property
    def key_sources(self) -> tuple[KeySource, ...]:
        """Of clients' and operators' keys."""
        return self.client_keys, self.operators, *(t.keys for t in self.tenants)

    @property
    def secret_files(self) -> tuple[str, ...]:
        """Files that keys, certificates and the cache key are read from."""
        files = [source.file for source in self.key_sources if source.file is not None]
        if self.tls is not None:
            files += [self.tls.cert, self.tls.key]
        if (own := self.agent_tls) is not None:
            files += [own.ca, own.cert, own.key, *(() if own.crl is None else (own.crl,))]
            files.append(own.cache_key_file)
        return tuple(files)

    def operators_key(self) -> str | None:
        """The first; None where there is none, or none that can be read here."""
        return _first_of(self.operators)

    def key_to_look_with(self) -> str | None:
        """An operator's, or else a client's; None where there is neither, or none that can be read
        here."""
        return self.operators_key() or self.key_to_ask_with()

    def key_to_ask_with(self) -> str | None:
        """A client's; None where there is none, or none that can be read here."""
        return next(filter(None, map(_first_of, self.tenant_keys.values())), None)

    @property
    def max_bodies_bytes(self) -> int:
        """``max_bodies`` in bytes. Raises ConfigError."""
        return parse_bytes(self.max_bodies)

    @property
    def most_waiting_tokens(self) -> int:
        """``max_waiting_tokens`` as a number. Raises ConfigError."""
        return parse_tokens(self.max_waiting_tokens)

    @property
    def max_wait_s(self) -> float:
        """``max_wait`` in seconds, infinite for None. Raises ConfigError."""
        return inf if self.max_wait is None else parse_duration(self.max_wait)

    @property
    def keepalive_s(self) -> float:
        """``keepalive`` in seconds, infinite for None. Raises ConfigError."""
        return inf if self.keepalive is None else parse_duration(self.keepalive)

    @property
    def drain_s(self) -> float:
        """``drain`` in seconds. Raises ConfigError."""
        return parse_duration(self.drain)

    @property
    def address(self) -> str:
        """``host:port`` at which clients and operators reach it."""
        return self.advertise or self.listen

    @property
    def url(self) -> str:
        """The same as a URL, without a path."""
        return f"{'http' if self.tls is None else 'https'}://{self.address}"

    @property
    def admin_url(self) -> str:
        """Where operators and Prometheus reach it, as a URL without a path."""
        if self.admin is None:
            return self.url
        return f"{'http' if self.admin_shows is None else 'https'}://{self.admin}"

    @property
    def admin_shows(self) -> TlsConfig | None:
        """The certificate of ``admin``, where that can be reached from other machines: what agents
        see, whose authority our own tools know, since no host name is needed there."""
        if self.admin is None or stays_here(parse_address(self.admin, what="admin").host):
            return None
        return self.agent_tls

    @property
    def admin_urls(self) -> tuple[str, ...]:
        """`admin_url` of each worker."""
        if self.admin is None:
            return (self.url,)
        scheme = self.admin_url.partition("://")[0]
        return tuple(f"{scheme}://{self.admin_of(n + 1)}" for n in range(self.workers))

    @property
    def own_urls(self) -> tuple[str, ...]:
        """Where whoever has started it asks it, on its machine: clients' name for it may lead to
        what stands before it. As URLs without a path, one for each worker."""
        if self.admin is not None:
            return self.admin_urls
        here = on_this_machine(parse_address(self.listen))
        return (f"{'http' if self.tls is None else 'https'}://{here}",)

    def admin_of(self, worker: int) -> str:
        """Where operators reach a worker, counted from 1. Raises ConfigError."""
        host, port = parse_address(self.admin or "", what="admin")
        return str(Address(host, port + worker - 1))

    @property
    def longest_deadline_s(self) -> float:
        """Seconds from arrival to the first byte of the longest answer that is not streamed, and so
        the longest that a transfer may be wanted. Raises ConfigError."""
        return self.request_deadline_s + MOST_OUTPUT_S

    @property
    def request_deadline_s(self) -> float:
        """Seconds. Raises ConfigError."""
        return parse_duration(self.request_deadline)


def _first_of(source: KeySource) -> str | None:
    with suppress(ConfigError):
        return next(iter(source.read()), None)
    return None
