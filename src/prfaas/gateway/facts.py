"""One line per request: what was decided, what it cost, how long each stage took.

The file is JSON lines of `TraceRecord`. Times ending in ``_at`` are Unix seconds; those ending in
``_s`` are seconds since ``arrived_at`` and None where the request never came that far.
"""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from prfaas.core.errors import ConfigError

logger = logging.getLogger(__name__)


class TraceRecord(msgspec.Struct, kw_only=True):
    """One request, filled in as it goes."""

    request_id: str
    endpoint: str
    arrived_at: float
    stream: bool = False
    total_tokens: int | None = None
    cached_tokens: int = 0
    """Prompt tokens that some engine of the decode engine's cluster held already."""
    max_output_tokens: int | None = None
    route: str | None = None
    reason: str | None = None
    prefill_engine: str | None = None
    decode_engine: str | None = None
    attempts: int = 0
    from_token: int = 0
    to_token: int = 0
    """Tokens [from_token, to_token) were handed over."""
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
    first_token_s: float | None = None
    completed_s: float | None = None

    @property
    def uncached_tokens(self) -> int | None:
        return None if self.total_tokens is None else self.total_tokens - self.cached_tokens

    @property
    def hidden_share(self) -> float | None:
        """Share of the KV bytes that crossed while prefill still ran, 0..1."""
        if self.kv_bytes_hidden is None or not self.kv_bytes:
            return None
        return self.kv_bytes_hidden / self.kv_bytes


class TraceLog:
    """Appends records to a file, or to nothing. Raises ConfigError if it cannot be opened; a line
    that cannot be written (a full disk) is lost."""

    def __init__(self, path: Path | None) -> None:
        try:
            self._file = None if path is None else path.open("ab", buffering=0)
        except OSError as error:
            raise ConfigError(f"trace file {path}: {error.strerror}") from error
        self._losing = False

    def write(self, record: TraceRecord) -> None:
        if self._file is None:
            return
        try:
            self._file.write(msgspec.json.encode(record) + b"\n")
            self._losing = False
        except OSError as error:
            if not self._losing:
                logger.error("trace file %s loses lines: %s", self._file.name, error.strerror)
            self._losing = True

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
