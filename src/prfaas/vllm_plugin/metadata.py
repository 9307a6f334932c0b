"""What the two halves tell each other each step: plain data, pickled by vLLM."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorMetadata,
    KVConnectorWorkerMetadata,
)

from prfaas.core.handoff import ExportParams, RequestContext
from prfaas.core.prefixes import PromptPrefix

BlockTables = tuple[list[int], ...]
"""Per KV group, the block ids of one request; 0 is vLLM's null block."""


THIS_AGENT = ""
"""As a transfer's destination: the engine's own, whatever its name."""


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
    prefix: PromptPrefix | None = None
    """What the hand-off is of, with its first step."""


@dataclass(frozen=True)
class CachedPart:
    """The first ``to_token`` tokens are in the agent's cache, under these names of whole blocks."""

    to_token: int
    block_tokens: int
    names: tuple[bytes, ...]


@dataclass(frozen=True)
class ImportStart:
    """A request whose blocks [local_tokens, to_token) wait to be filled: those from ``from_token``
    on from a transfer, those before it from the agent's cache. Without ``transfer_id`` all of them.

    ``kept_states``: KV group to the block in which the state at the last block's end is kept for
    other prompts (`kept_states`).
    """

    request_id: str
    transfer_id: str | None
    prompt_digest: str
    from_token: int
    to_token: int
    local_tokens: int
    tables: BlockTables
    kept_states: dict[int, int] = field(default_factory=dict)
    source: str | None = None
    """The sender's `KvLayout`, packed; None: as this engine's."""
    cached: CachedPart | None = None
    prefix: PromptPrefix | None = None
    """What the transfer is of."""
    context: RequestContext | None = None


@dataclass
class StepMetadata(KVConnectorMetadata):
    """Scheduler to workers: what of which requests moves in this step."""

    exports: list[ExportStep] = field(default_factory=list)
    aborted_exports: list[tuple[str, str]] = field(default_factory=list)
    """(transfer_id, reason): the boundary will never be reached."""
    imports: list[ImportStart] = field(default_factory=list)
    answers: list[ExportStep] = field(default_factory=list)
    """To the engine's own agent, to be cached there."""


@dataclass
class StepReport(KVConnectorWorkerMetadata):
    """Worker to scheduler: exports a rank has given up, by request id, with the reason; and how
    many ranks are done with each answer."""

    failed_exports: dict[str, str]
    answers: dict[str, int] = field(default_factory=dict)

    def aggregate(self, other: KVConnectorWorkerMetadata) -> StepReport:
        assert isinstance(other, StepReport)
        answers = Counter(self.answers)
        answers.update(other.answers)
        return StepReport({**other.failed_exports, **self.failed_exports}, dict(answers))
