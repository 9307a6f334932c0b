"""What is known of one request, filled in as it goes: for its headers, metrics and last note.

Times ending in ``_s`` are seconds since the request was received, None where it never came so far.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import msgspec

from prfaas.gateway.agent_client import TransferStatus
from prfaas.gateway.pools import Pull
from prfaas.scheduler.commands import StartDecode, StartPrefill
from prfaas.scheduler.journal import RequestEnded

_FULL = ("rate_limit_error", "service_unavailable_error")
"""Outcomes."""
LOOKED_AT_S = 2.0
"""An engine that refuses what it has looked at does so in less. One that took longer may have
computed all of it: vLLM says 400 as well where it cannot write its own answer."""
_UNQUOTABLE = re.compile(r"[^ !#-\[\]-~]")


class RequestFacts(msgspec.Struct, kw_only=True):
    """One request. ``arrived_at`` is in Unix seconds; the rest is of the last attempt."""

    request_id: str
    endpoint: str
    arrived_at: float
    tenant: str = ""
    tells: bool = True
    """Whether its client may be told what became of it: where tenants share caches, that would say
    what others have asked."""
    stream: bool = False
    total_tokens: int | None = None
    about_tokens: int | None = None
    """Of a prompt that is too short to be tokenised here, by its bytes."""
    cached: Mapping[str, int] = {}
    """Engine -> prompt tokens it holds, as the scheduler was told."""
    pool: Mapping[str, int] = {}
    """Of those, engines that were to load it from their agent's cache."""
    at_agent: Mapping[str, int] = {}
    """What each engine's agent has, and it can load so far as it needs it."""
    from_disk: Mapping[str, int] = {}
    """Of that, how many tokens are read from disk first."""
    pulls: Mapping[str, Pull] = {}
    """Engines for whose agent something is pulled first."""
    loads_since: dict[str, float] = {}
    """Engines that had nothing else to prefill when they were asked, and when that was."""
    pulled_tokens: int = 0
    """Prompt tokens up to which other agents' caches were pulled."""
    pool_tokens: int = 0
    """Prompt tokens that an engine was to load so."""
    cached_tokens: int = 0
    """Prompt tokens that some engine of the decode engine's cluster held already, of those that
    are up and not drained."""
    prefill_cached_tokens: int | None = None
    """Prompt tokens that the prefill engine did not have to compute, as it says itself."""
    why_alone: str | None = None
    route: str | None = None
    reason: str | None = None
    prefill_engine: str | None = None
    decode_engine: str | None = None
    attempts: int = 0
    answer_tokens: int | None = None
    kv_bytes: int = 0
    kv_bytes_hidden: int | None = None
    """Of these, bytes stored by the receiver before prefill had ended."""
    outcome: str = "cancelled"
    status: int | None = None
    error: str | None = None
    rendered_s: float | None = None
    prefill_started_s: float | None = None
    prefilled_s: float | None = None
    transfer_first_byte_s: float | None = None
    transferred_s: float | None = None
    decode_started_s: float | None = None
    decodes_started_s: dict[int, float] = {}
    """By attempt."""
    first_token_s: float | None = None
    completed_s: float | None = None

    @property
    def computed_by(self) -> str | None:
        """The engine that prefilled the prompt, where it was answered."""
        done = self.outcome == "ok" or self.first_token_s is not None
        return (self.prefill_engine or self.decode_engine) if done else None

    @property
    def refused(self) -> bool:
        """Whether its client was told that it is not answered, before anything was computed: a
        prefill engine is not told what the engine that is to answer may refuse."""
        if self.prefill_started_s is not None or self._took_s > LOOKED_AT_S:
            return False
        full = self.outcome in _FULL and self.first_token_s is None
        return full or self.outcome == "refused"

    @property
    def _took_s(self) -> float:
        """How long the engine that answers took to its first word, be it a refusal."""
        if self.first_token_s is None or self.decode_started_s is None:
            return 0.0
        return self.first_token_s - self.decode_started_s

    @property
    def uncached_tokens(self) -> int | None:
        """None where the prompt's length is not known."""
        return None if self.total_tokens is None else self.total_tokens - self.cached_tokens

    @property
    def hidden_share(self) -> float | None:
        """Share of the KV bytes that crossed while prefill still ran, 0..1."""
        if self.kv_bytes_hidden is None or not self.kv_bytes:
            return None
        return min(1.0, self.kv_bytes_hidden / self.kv_bytes)

    def note_attempt(
        self, command: StartPrefill | StartDecode, decode_cluster: Iterable[str], elapsed_s: float
    ) -> None:
        """Remember where this attempt goes and since when; ``decode_cluster`` names the engines
        of the decode engine's cluster that may be given work."""
        self.cached_tokens = max((self.cached.get(name, 0) for name in decode_cluster), default=0)
        self.pool_tokens = max(
            self.pool.get(command.engine, 0), self.pool.get(self.prefill_engine or "", 0)
        )
        self.attempts = max(self.attempts, command.attempt)
        self.route, self.reason = command.route.value, self.why_alone or command.reason
        if self.about_tokens is not None:
            self.reason = f"shorter than a block, so not tokenised here; {self.reason}"
        if isinstance(command, StartPrefill):
            self.prefill_engine, self.decode_engine = command.engine, command.decode_engine
            self.prefill_started_s = elapsed_s
            self.prefilled_s = self.transfer_first_byte_s = self.transferred_s = None
            self.prefill_cached_tokens = None
            self.kv_bytes, self.kv_bytes_hidden = 0, None
            return
        self.decode_engine, self.decode_started_s = command.engine, elapsed_s
        self.decodes_started_s[command.attempt] = elapsed_s
        if command.transfer_id is None:
            self.prefill_engine = None
            self.kv_bytes, self.kv_bytes_hidden = 0, None

    def note_pull(self, engine: str, to_token: int) -> None:
        """The engine's agent has so much of the prompt now."""
        self.pool = {**self.pool, engine: to_token}
        self.at_agent = {**self.at_agent, engine: to_token}
        self.pool_tokens = max(self.pool_tokens, to_token)
        self.pulled_tokens = max(self.pulled_tokens, to_token)

    def note_prefill(self, cached_tokens: int | None, elapsed_s: float) -> None:
        """Prefill is over."""
        self.prefilled_s, self.prefill_cached_tokens = elapsed_s, cached_tokens

    def note_end(self, output_tokens: int | None, elapsed_s: float) -> None:
        """The answer has ended; None: its engine has not said how long it is."""
        if self.outcome == "ok":
            self.completed_s = elapsed_s
        if output_tokens is not None:
            self.answer_tokens = output_tokens

    def note_answer(self, command: StartDecode, elapsed_s: float) -> None:
        """This attempt begins to answer, maybe of two that were made."""
        self.first_token_s = elapsed_s
        self.decode_engine = command.engine
        self.decode_started_s = self.decodes_started_s[command.attempt]

    def note_transfer(self, status: TransferStatus, elapsed_s: float) -> None:
        """The transfer is complete."""
        self.transferred_s = elapsed_s
        self.kv_bytes = status.bytes_total or 0
        if status.first_byte_at is not None:
            self.transfer_first_byte_s = status.first_byte_at - self.arrived_at

    def headers(self) -> dict[str, str]:
        """What a response says about its request."""
        if self.route is None or not self.tells:
            return {"X-Request-Id": self.request_id}
        headers = {
            "X-Request-Id": self.request_id,
            "x-prfaas-route": f'{self.route}; reason="{_quoted(self.reason or "")}"',
            "x-prfaas-decode-engine": self.decode_engine or "",
            "x-prfaas-attempts": str(self.attempts),
        }
        if self.total_tokens is not None:
            headers["x-prfaas-total-tokens"] = str(self.total_tokens)
            headers["x-prfaas-cached-tokens"] = str(self.cached_tokens)
            headers["x-prfaas-uncached-tokens"] = str(self.uncached_tokens)
        if self.pool_tokens:
            headers["x-prfaas-pool-tokens"] = str(self.pool_tokens)
        if self.pulled_tokens:
            headers["x-prfaas-pulled-tokens"] = str(self.pulled_tokens)
        if self.prefill_engine is not None:
            headers["x-prfaas-prefill-engine"] = self.prefill_engine
            headers["x-prfaas-kv-bytes"] = str(self.kv_bytes)
        if self.hidden_share is not None:
            headers["x-prfaas-kv-hidden"] = f"{self.hidden_share:.4f}"
        return headers

    def ended(self, key: str, received_at: float) -> RequestEnded:
        """The journal's note; ``key`` is the scheduler's name for the request. Why an engine
        refuses one stays out: it may quote the prompt."""
        return RequestEnded(
            request_id=key,
            client_request_id=self.request_id,
            endpoint=self.endpoint,
            stream=self.stream,
            received_at=received_at,
            rendered_s=self.rendered_s,
            why_alone=self.why_alone,
            status=self.status,
            outcome=self.outcome,
            error=None if self.outcome == "refused" else self.error,
            kv_bytes=self.kv_bytes,
            kv_bytes_hidden=self.kv_bytes_hidden,
            transfer_first_byte_s=self.transfer_first_byte_s,
        )


def _quoted(text: str) -> str:
    """Text as it may stand between quotes in a header: one line of printable ASCII."""
    return _UNQUOTABLE.sub("'", text[:400])
