"""Estimates of prefill time and KV size that placement and policies share."""

from __future__ import annotations

from collections.abc import Callable, Mapping


class LinearCosts:
    """A constant prefill rate per engine and constant KV bytes: where no profile is known.

    ``tokens_per_s`` maps engine names to uncached tokens per second; ``default_tokens_per_s``
    serves the others, so that comparing queues by estimate compares them by tokens.
    """

    def __init__(
        self,
        tokens_per_s: Mapping[str, float] | None = None,
        default_tokens_per_s: float = 10_000.0,
        bytes_per_token: float = 0.0,
        constant_bytes: float = 0.0,
    ) -> None:
        self.tokens_per_s = tokens_per_s or {}
        self.default_tokens_per_s = default_tokens_per_s
        self.bytes_per_token = bytes_per_token
        self.constant_bytes = constant_bytes

    def prefill_s(self, engine: str, uncached_tokens: int) -> float:
        return uncached_tokens / self.tokens_per_s.get(engine, self.default_tokens_per_s)

    def kv_bytes(self, from_token: int, to_token: int) -> float:
        return self.constant_bytes + self.bytes_per_token * (to_token - from_token)


class ProfileCosts:
    """Estimates from measured profiles.

    ``prefill`` maps engine names to T_prefill(uncached tokens) in seconds; ``kv`` is S_kv(tokens)
    in bytes. A hand-off from token a on costs S_kv(b) - S_kv(a) and the constant state S_kv(0).
    """

    def __init__(
        self, prefill: Mapping[str, Callable[[float], float]], kv: Callable[[float], float]
    ) -> None:
        self._prefill = prefill
        self._kv = kv

    def prefill_s(self, engine: str, uncached_tokens: int) -> float:
        return self._prefill[engine](uncached_tokens)

    def kv_bytes(self, from_token: int, to_token: int) -> float:
        if from_token:
            return self._kv(to_token) - self._kv(from_token) + self._kv(0)
        return self._kv(to_token)
