"""Tenants of this gateway: whose key a request carries, what it may use, how much at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import msgspec

from prfaas.core.deployment import GatewayConfig, TenantConfig
from prfaas.core.deployment.tenants import DEFAULT_TENANT
from prfaas.core.errors import ConfigError
from prfaas.core.strict import naming
from prfaas.gateway.api_errors import RequestRefused, TooManyRequests
from prfaas.gateway.keys import key_digest
from prfaas.gateway.token_bucket import TokenBucket

_FIRST_GUESS_S = 1.0
"""How long a tenant's requests take, before one has ended."""
_NEWEST_COUNTS = 0.2
"""The share of the latest request in that time; the rest is what was known before."""

Clock = Callable[[], float]


class Use:
    """One request's share of its tenant's limits."""

    def __init__(self, tenant: Tenant, began: float) -> None:
        self.tenant = tenant
        self.told_tokens = 0
        """How many its answers have, once that is known; and its prompt, beyond those taken."""
        self.refused = False
        """Whether nothing was answered: it has used no tokens then, and says nothing of how long
        answers take."""
        self.began = began
        self.prompt_tokens = self.tokens = 0
        """Taken: of the prompt, and of that and the longest answers."""

    def take_tokens(self, prompt: int, answer: int) -> None:
        """Its prompt is so long, and its answers may be so long. Raises TooManyRequests."""
        self.tenant.take_tokens(prompt, answer)
        self.prompt_tokens += prompt
        self.tokens += prompt + answer

    def end(self) -> None:
        """The request is over."""
        self.tenant.end(self)


class Tenant:
    """One tenant, its limits, and what it uses of them now."""

    def __init__(self, config: TenantConfig, clock: Clock, has_others: Callable[[], bool]) -> None:
        self._clock = clock
        self.has_others = has_others
        """Whether there are other tenants in this process."""
        self._requests: TokenBucket | None = None
        self._tokens: TokenBucket | None = None
        self._under_way: dict[Use, None] = {}
        """The oldest first."""
        self.inflight_tokens = 0
        self.takes_s = _FIRST_GUESS_S
        """How long its requests take, about."""
        self.configure(config)

    @property
    def name(self) -> str:
        """As the file calls it."""
        return self.config.name

    @property
    def inflight(self) -> int:
        """How many requests of its are under way."""
        return len(self._under_way)

    @property
    def counts_tokens(self) -> bool:
        """Whether it is limited by them."""
        return self._tokens is not None or self.config.most_tokens is not None

    def configure(self, config: TenantConfig) -> None:
        """From the next request on it goes by these; what it uses now stays counted."""
        self.config, now = config, self._clock()
        rate = config.requests_per_s
        self._requests = _bucket(self._requests, rate, max(1.0, rate or 0.0), now)
        tokens = config.tokens_per_s
        self._tokens = _bucket(self._tokens, tokens, 60 * (tokens or 0.0), now)

    def check_model(self, model: str | None) -> None:
        """Raise RequestRefused (404) for one that it may not use."""
        allowed = self.config.models
        if allowed is None or model in allowed:
            return
        asked = "name a model" if model is None else f"the model {model[:200]!r} does not exist"
        raise RequestRefused(
            404,
            f"{asked}, or this key may not use it",
            kind="not_found_error",
            param="model",
            cause="model",
        )

    @contextmanager
    def using(self) -> Iterator[Use]:
        """For as long as a request of its lasts. Raises as `begin`."""
        use = self.begin()
        try:
            yield use
        except TooManyRequests as error:
            self._comes_again(error)
            raise
        finally:
            use.end()

    def begin(self) -> Use:
        """Another request of its. Raises TooManyRequests with the time after which it may come."""
        now, most = self._clock(), self.config.max_requests
        if most is not None and self.inflight >= most:
            wait_s = self._until_ended(requests=self.inflight - most + 1)
            raise self._too_many("max_requests", f"{most} requests are answered at a time", wait_s)
        if self._requests is not None:
            wait_s = self._requests.wait_s(1, now)
            if wait_s > 0:
                rate = self.config.requests_per_s
                raise self._too_many("requests_per_s", f"{rate:g} requests a second", wait_s)
            self._requests.take(1, now)
        use = Use(self, now)
        self._under_way[use] = None
        return use

    def take_tokens(self, prompt: int, answer: int) -> None:
        """A request's prompt is so long, its answers may be so long. Raises TooManyRequests."""
        now, most = self._clock(), self.config.most_tokens
        wait_s = 0.0 if self._tokens is None else self._tokens.wait_s(prompt, now)
        if most is not None and self.inflight_tokens + prompt + answer > most:
            if prompt + answer > most:
                raise RequestRefused(
                    400,
                    f"{prompt} prompt tokens and {answer} of the answer are more than the {most} "
                    "that this key may have at a time; lower max_tokens or shorten the prompt",
                    cause="max_tokens",
                )
            beyond = self.inflight_tokens + prompt + answer - most
            wait_s = max(wait_s, self._until_ended(tokens=beyond))
            raise self._too_many("max_tokens", f"{most} tokens are answered at a time", wait_s)
        if self._tokens is not None:
            if wait_s > 0:
                raise self._too_many(
                    "tokens_per_min", f"{60 * self._tokens.rate:.0f} tokens a minute", wait_s
                )
            self._tokens.take(prompt, now)
        self.inflight_tokens += prompt + answer

    def end(self, use: Use) -> None:
        """A request is over."""
        now = self._clock()
        del self._under_way[use]
        self.inflight_tokens -= use.tokens
        if use.tokens and not use.refused:  # One that only asked what there is took no time.
            self.takes_s += _NEWEST_COUNTS * (now - use.began - self.takes_s)
        if self._tokens is not None:
            self._tokens.take(-use.prompt_tokens if use.refused else use.told_tokens, now)

    def _until_ended(self, *, requests: int = 0, tokens: int = 0) -> float:
        """Seconds until so many have ended, or those that have so many tokens, by how long they
        have taken so far: the oldest first. One that takes longer than that may end at any time."""
        now = self._clock()
        for ended, use in enumerate(self._under_way, 1):
            tokens -= use.tokens
            if ended >= requests and tokens <= 0:
                left_s = self.takes_s - (now - use.began)
                return left_s if left_s > 0 else self.takes_s / self.inflight
        return self.takes_s

    def _comes_again(self, error: TooManyRequests) -> None:
        """Have who is refused wait until it may come, as another request."""
        if self._requests is not None:
            error.wait(self._requests.wait_s(1, self._clock()))

    def _too_many(self, limit: str, what: str, wait_s: float) -> TooManyRequests:
        why = f"this key's limit is reached: {what} ({limit})"
        error = TooManyRequests(why, retry_after_s=wait_s, cause=limit)
        self._comes_again(error)
        return error


class Tenants:
    """All of them, by their keys. Read again with the deployment file: a key that is gone is
    refused from the next request on, and what a tenant uses stays counted.
    """

    def __init__(self, read: ReadTenants, clock: Clock = time.monotonic) -> None:
        self._clock, self._beside = clock, list[Tenants]()
        self._tenants: dict[str, Tenant] = {}
        self.take(read)

    def meet(self, others: Tenants) -> None:
        """Engines are asked by both from now on, each at its deployment's door."""
        self._beside.append(others)
        others._beside.append(self)

    def __bool__(self) -> bool:
        """Whether a key is asked for."""
        return bool(self._by_key)

    @property
    def several(self) -> bool:
        """Whether there are others to be kept apart from, here or at another gateway of the file:
        engines are asked by all of them."""
        return self._several_here() or self._others_elsewhere

    @property
    def isolated(self) -> bool:
        """Whether each tenant has a prefix cache of its own."""
        # One that is alone may come in another's place, in whose time engines cached.
        named = DEFAULT_TENANT not in self._tenants
        return self.several or named if self._isolate is None else self._isolate

    def __iter__(self) -> Iterator[Tenant]:
        return iter(self._tenants.values())

    def take(self, read: ReadTenants) -> None:
        """From the next request on these are the ones."""
        before = self._tenants
        self._tenants = {}
        for config in read.configs:
            tenant = before.get(config.name)
            if tenant is None:
                tenant = Tenant(config, self._clock, self._several_here)
            else:
                tenant.configure(config)
            self._tenants[config.name] = tenant
        self.take_keys(read.keys)
        self._others_elsewhere, self._isolate = read.others_elsewhere, read.isolate_caches

    def _several_here(self) -> bool:
        beside = (others._tenants.keys() for others in self._beside)
        return len(self._tenants) > 1 or any(names != self._tenants.keys() for names in beside)

    def take_keys(self, keys: Mapping[bytes, str]) -> None:
        """From the next request on these are its tenants', by digest."""
        self._by_key = {digest: self._tenants[name] for digest, name in keys.items()}

    @property
    def keys(self) -> dict[bytes, str]:
        """Digest -> tenant."""
        return {digest: tenant.name for digest, tenant in self._by_key.items()}

    def find(self, key: str) -> Tenant:
        """Whose request this is, by the key that it shows. Raises RequestRefused (401)."""
        if not self._by_key:
            return self._tenants[DEFAULT_TENANT]
        # By digest: how long the search takes tells nothing of the keys that there are.
        tenant = self._by_key.get(key_digest(key))
        if tenant is None:
            raise RequestRefused(
                401,
                "no valid API key: send 'Authorization: Bearer KEY' with a key of this deployment",
                kind="authentication_error",
                cause="key",
            )
        return tenant


class ReadTenants(msgspec.Struct, frozen=True):
    """What the file, key files and the environment say. ``keys``: digest -> tenant;
    ``others_elsewhere``: whether another gateway of the file has tenants that this one has not."""

    configs: tuple[TenantConfig, ...]
    keys: dict[bytes, str]
    isolate_caches: bool | None
    others_elsewhere: bool


def read_tenants(config: GatewayConfig, gateways: Iterable[GatewayConfig] = ()) -> ReadTenants:
    """``gateways``: all of the file. Raises ConfigError, never with a key in its text."""
    configs, sources = list(config.tenants), config.tenant_keys
    if DEFAULT_TENANT in sources:
        configs.insert(0, TenantConfig(name=DEFAULT_TENANT))
    keys: dict[bytes, str] = {}
    for tenant in configs:
        with naming(f"tenant {tenant.name!r}"):
            for key in sources[tenant.name].read():
                other = keys.setdefault(key_digest(key), tenant.name)
                if other != tenant.name:
                    raise ConfigError(f"has a key that tenant {other!r} has, too")
            if config.tenants and tenant.name not in keys.values():
                raise ConfigError("has no key: give api_keys_file, api_keys_env or api_keys")
    elsewhere = any(gateway.tenant_keys.keys() - sources for gateway in gateways)
    return ReadTenants(tuple(configs), keys, config.isolate_caches, elsewhere)


def keys_as_far_as_read(config: GatewayConfig, before: Mapping[bytes, str]) -> dict[bytes, str]:
    """The keys of each tenant whose own can be read, and those that there were ``before`` of one
    whose cannot: it keeps no other's key good. A key of two is whose it was."""
    owners: dict[bytes, list[str]] = {}
    for name, source in sorted(config.tenant_keys.items()):
        try:
            found = {key_digest(key) for key in source.read()}
        except ConfigError:
            found = {digest for digest, owner in before.items() if owner == name}
        for digest in found:
            owners.setdefault(digest, []).append(name)
    return {
        digest: before[digest] if before.get(digest) in names else names[0]
        for digest, names in owners.items()
    }


def _bucket(
    bucket: TokenBucket | None, rate: float | None, burst: float, now: float
) -> TokenBucket | None:
    if rate is None:
        return None
    if bucket is None:
        return TokenBucket(rate, burst, now)
    bucket.configure(rate, burst, now)
    return bucket
