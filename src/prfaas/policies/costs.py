"""Estimates of prefill time and KV size that placement and policies share."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec


class LinearCosts(msgspec.Struct, frozen=True):
    """A constant prefill rate per engine and constant KV bytes: where no profile is known.

    ``tokens_per_s`` maps engine names to uncached tokens per second; ``default_tokens_per_s``
    serves the others, so that comparing queues by estimate compares them by tokens.
    """

    tokens_per_s: Mapping[str, float] = {}
    default_tokens_per_s: float = 10_000.0
    bytes_per_token: float = 0.0
    constant_bytes: float = 0.0

    def prefill_s(self, engine: str, uncached_tokens: int) -> float:
        return uncached_tokens / self.tokens_per_s.get(engine, self.default_tokens_per_s)

    def kv_bytes(self, from_token: int, to_token: int) -> float:
        return self.constant_bytes + self.bytes_per_token * (to_token - from_token)


class ProfileCosts(msgspec.Struct, frozen=True):
    """Estimates from measured profiles.

    ``prefill`` maps engine names to T_prefill(uncached tokens) in seconds; ``kv`` is S_kv(tokens)
    in bytes. A hand-off from token a on costs S_kv(b) - S_kv(a) and the constant state S_kv(0).
    """

    prefill: Mapping[str, Callable[[float], float]]
    kv: Callable[[float], float]

    def prefill_s(self, engine: str, uncached_tokens: int) -> float:
        return self.prefill[engine](uncached_tokens)

    def kv_bytes(self, from_token: int, to_token: int) -> float:
        return (
            self.kv(to_token) - self.kv(from_token) + self.kv(0)
            if from_token
            else self.kv(to_token)
        )
