"""What the two halves tell each other each step: plain data, pickled by vLLM."""

from __future__ import annotations

from dataclasses import dataclass, field

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorMetadata,
    KVConnectorWorkerMetadata,
)

from prfaas.core.handoff import ExportParams

BlockTables = tuple[list[int], ...]
"""Per KV group, the block ids of one request; 0 is vLLM's null block."""


@dataclass(frozen=True)
class ExportStep:
    """One prefill step of a request being exported.

    After this step ``end_token`` tokens (at most the hand-off's) have their KV in the cache;
    ``first_token`` is where the previous step's export ended. ``final`` marks the step at whose
    end the hand-off is complete. ``states_at``: after so many tokens each, recurrent states that
    are to leave now lie in their blocks.
    """

    request_id: str
    params: ExportParams
    prompt_digest: str
    first_token: int
    end_token: int
    final: bool
    tables: BlockTables
    states_at: tuple[int, ...] = ()


@dataclass(frozen=True)
class ImportStart:
    """A request whose blocks [local_tokens, to_token) wait to be filled from a transfer.

    ``kept_states``: KV group to the block in which the state at the last block's end is kept for
    other prompts (`kept_states`).
    """

    request_id: str
    transfer_id: str
    prompt_digest: str
    from_token: int
    to_token: int
    local_tokens: int
    tables: BlockTables
    kept_states: dict[int, int] = field(default_factory=dict)
    source: str | None = None
    """The sender's `KvLayout`, packed; None: as this engine's."""


@dataclass
class StepMetadata(KVConnectorMetadata):
    exports: list[ExportStep] = field(default_factory=list)
    aborted_exports: list[tuple[str, str]] = field(default_factory=list)
    """(transfer_id, reason): the boundary will never be reached."""
    imports: list[ImportStart] = field(default_factory=list)


@dataclass
class StepReport(KVConnectorWorkerMetadata):
    """Worker to scheduler: exports a rank has given up, by request id, with the reason."""

    failed_exports: dict[str, str]

    def aggregate(self, other: KVConnectorWorkerMetadata) -> StepReport:
        assert isinstance(other, StepReport)
        return StepReport({**other.failed_exports, **self.failed_exports})
