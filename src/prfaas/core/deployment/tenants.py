"""Who uses a gateway, as the deployment file describes it."""

from __future__ import annotations

from typing import Annotated

import msgspec

from prfaas.core.deployment.engines import Positive, ProcessName
from prfaas.core.deployment.secrets import KeySource
from prfaas.core.handoff import Priority
from prfaas.core.strict import Strict
from prfaas.core.units import parse_tokens

DEFAULT_TENANT = "default"
"""Who carries one of ``gateway.api_keys``, or no key where none is asked for."""
AboveZero = Annotated[float, msgspec.Meta(ge=1e-6, le=1e9)]


class TenantConfig(Strict, frozen=True):
    """One tenant: whoever carries one of its keys. Limits hold for each gateway by itself; without
    one there is none."""

    name: ProcessName
    api_keys: tuple[str, ...] = ()
    api_keys_file: str | None = None
    """One key a line."""
    api_keys_env: str | None = None
    """An environment variable with keys."""
    requests_per_s: AboveZero | None = None
    """In the long run; as many as in one second (one at least) may come at once."""
    tokens_per_min: str | int | None = None
    """Prompt and answer tokens. A minute's worth may come at once; answers are counted when they
    end, and may leave a debt."""
    max_requests: Positive | None = None
    """At a time."""
    max_tokens: str | int | None = None
    """Prompt and possible answer tokens of all that is answered at a time."""
    priority: Priority = 0
    """A lower number goes first."""
    weight: AboveZero = 1.0
    """Its share of what is short, beside the other tenants of its priority."""
    models: tuple[str, ...] | None = None
    """Models and adapters it may use; None: all."""

    @property
    def keys(self) -> KeySource:
        """Where its keys come from."""
        return KeySource(written=self.api_keys, file=self.api_keys_file, env=self.api_keys_env)

    @property
    def tokens_per_s(self) -> float | None:
        """``tokens_per_min`` in tokens per second. Raises ConfigError."""
        return None if self.tokens_per_min is None else parse_tokens(self.tokens_per_min) / 60

    @property
    def most_tokens(self) -> int | None:
        """``max_tokens`` as a number. Raises ConfigError."""
        return None if self.max_tokens is None else parse_tokens(self.max_tokens)
