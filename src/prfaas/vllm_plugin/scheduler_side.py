"""The scheduler-side half: which tokens of which request move in which step. Runs in EngineCore.

Export. An aligned hand-off of a prompt of N tokens ends at T (a multiple of every group's block
size, T < N). An exact one ends at N-1: the prefill engine is given the prompt without its last
token, so that states stand still there, at the end of its last step. A step that advances a
request from ``computed`` to ``end`` tokens makes the blocks up to ``min(end, T)`` final. Recurrent
states exist at a few tokens only (`states`), and vLLM's aligned mode takes care that the last
block's end is one of them; if it is not, the export is given up with the reason, never guessed.

Import. The request asks for tokens beyond its local prefix; vLLM allocates their blocks and
parks it until the worker reports the load (`load_plans`). Loads are asynchronous without exception:
in aligned mode vLLM copies the last local state *before* a synchronous load would write it. A
request whose load failed is never offered the transfer again: vLLM then recomputes it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec
from vllm.logger import init_logger
from vllm.v1.request import RequestStatus

from prfaas.core.errors import CallerError
from prfaas.core.handoff import (
    ExportParams,
    ExportResult,
    ImportParams,
    LoadParams,
    parse_handoff,
)
from prfaas.core.prefixes import PromptPrefix
from prfaas.vllm_plugin.adapter_identity import AdapterIdentities
from prfaas.vllm_plugin.answers import Answers
from prfaas.vllm_plugin.geometry import group_kinds
from prfaas.vllm_plugin.kept_states import KeptStates
from prfaas.vllm_plugin.load_plans import LoadPlans
from prfaas.vllm_plugin.metadata import BlockTables, ExportStep, ImportStart, StepMetadata
from prfaas.vllm_plugin.prefix_names import PrefixNames, transfer_digest
from prfaas.vllm_plugin.states import RecurrentStates

if TYPE_CHECKING:
    from collections.abc import Collection

    from vllm.lora.request import LoRARequest
    from vllm.v1.core.block_pool import BlockPool
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.request import Request

# Under "vllm" so that the engine's own logging configuration applies.
logger = init_logger(f"vllm.{__name__}")


@dataclass
class _Export:
    """A request being exported; ``exported_tokens`` have been named in steps so far."""

    params: ExportParams
    prompt_digest: str
    prompt_tokens: int
    exported_tokens: int
    states_due: list[int]
    """Tokens after which states are still to be exported, in order."""
    adapter: tuple[LoRARequest | None, str | None]
    """As asked for, and what it was when the request came."""
    prefix: PromptPrefix | None = None
    handed_over: bool = False
    failure: str | None = None


_EXPORTS_NOTHING = "this engine was started as kv_consumer: it exports nothing"


class SchedulerSide:
    """``exports``: whether this engine may be asked for KV caches; ``recomputes``: whether vLLM
    computes what could not be loaded; ``weights``: see `prefix_names.weights_identity`."""

    def __init__(
        self,
        kv_cache: KVCacheConfig,
        *,
        exports: bool = True,
        recomputes: bool = True,
        weights: str = "",
        ranks: int = 1,
        keeps_answers: bool = False,
    ) -> None:
        self._may_export = exports
        kinds = group_kinds(kv_cache)
        self._alignment = max(block_tokens for _, block_tokens in kinds)
        # Between two ends of the largest blocks no state of another group is known to stand still.
        self._may_be_exact = all(
            block_tokens == self._alignment for kind, block_tokens in kinds if kind == "recurrent"
        )
        self._states = RecurrentStates(kv_cache)
        self._exports: dict[str, _Export] = {}
        self._adapters = AdapterIdentities()
        self._names = PrefixNames(weights, self._alignment, self._adapters)
        self._loads = LoadPlans(from_cache=recomputes)
        self.answers = Answers(kv_cache, self._names, ranks=ranks, keeps=keeps_answers)
        self._starting: list[ImportStart] = []
        self._aborted: list[tuple[str, str]] = []
        self._kept = KeptStates(kv_cache)

    def bind_block_pool(self, pool: BlockPool) -> None:
        """vLLM's, once it exists."""
        self._kept.pool = self.answers.pool = pool

    def loads_ended(self, finished: Collection[str], failed: Collection[str]) -> None:
        """Of these requests; failed ones are among the finished."""
        for request_id in finished:
            self._kept.settle(request_id, ok=request_id not in failed)
            if request_id in failed:
                self.answers.note(request_id, 0)

    def reset(self) -> None:
        """vLLM has dropped its prefix cache, and what lies elsewhere is to be used no more: its
        weights were changed, perhaps. An export that goes on would be of both."""
        self._names.renew()
        self._loads.forget_all()
        self.answers.forget_known()
        for export in self._exports.values():
            if not export.handed_over and export.failure is None:
                self._give_up(export, "the engine's caches were reset")

    def on_new_request(self, request: Request) -> None:
        """Notes what the gateway has written into it."""
        try:
            params = parse_handoff(request.kv_transfer_params)
            if params is None:
                return
            digest, adapter = "", self._adapters.of(request.lora_request)
            if isinstance(params, ExportParams) and not self._may_export:
                raise CallerError(_EXPORTS_NOTHING)
            if not isinstance(params, LoadParams):
                self._check_boundary(params, request.num_prompt_tokens)
                digest = transfer_digest(request, params.to_token, adapter)
        except CallerError as error:
            # Raising here would end EngineCore for everybody. An export answers with the reason,
            # an import is recomputed.
            logger.warning(
                "request %s: %s",
                request.request_id,
                error,
                extra={"request_id": request.request_id},
            )
            return
        names = self._names.of(request)
        self._loads.note(request, params, names, digest)
        if not isinstance(params, ExportParams):
            handed = params.to_token if isinstance(params, ImportParams) else 0
            keep = self._may_export and isinstance(params, LoadParams) and params.keep
            self.answers.note(request.request_id, max(params.pool_tokens, handed), keep=keep)
        if isinstance(params, ExportParams):
            end, within = params.to_token, params.to_token % self._alignment
            due = [end - within, end] if 0 < within < end else [end]
            self._exports[request.request_id] = _Export(
                params,
                digest,
                request.num_prompt_tokens,
                params.from_token,
                due,
                (request.lora_request, adapter),
                None if names is None else names.stretch(params.from_token, params.to_token),
            )

    def _check_boundary(self, params: ExportParams | ImportParams, prompt_tokens: int) -> None:
        end = params.to_token
        aligned = end % self._alignment == 0 and 0 < end < prompt_tokens
        exact = prompt_tokens if isinstance(params, ExportParams) else prompt_tokens - 1
        if not aligned and not (self._may_be_exact and 0 < end == exact):
            raise CallerError(
                f"kv_transfer_params: to_token {end} must be a positive multiple of the block size "
                f"{self._alignment} below the prompt's {prompt_tokens} tokens, or {exact}"
            )

    # Importing

    def get_num_new_matched_tokens(
        self, request: Request, num_local_tokens: int
    ) -> tuple[int, bool]:
        tokens = self._loads.offer(request.request_id, num_local_tokens)
        return tokens, tokens > 0

    def update_state_after_alloc(
        self, request: Request, blocks: KVCacheBlocks, num_external_tokens: int
    ) -> None:
        if num_external_tokens == 0:
            return
        start = self._loads.take(request.request_id, blocks.get_block_ids())
        last_block_end = start.to_token // self._alignment * self._alignment
        if 0 < last_block_end < start.to_token:
            kept = self._kept.reserve(request, last_block_end)
            start = replace(start, kept_states=kept)
        self._starting.append(start)

    # Exporting

    def build_connector_meta(self, output: SchedulerOutput) -> StepMetadata:
        meta = StepMetadata(imports=self._starting, answers=self.answers.take_steps())
        self._starting = []
        if self._exports:
            computed = _computed_tokens(output)
            for request_id, scheduled in output.num_scheduled_tokens.items():
                export = self._exports.get(request_id)
                if export is None or export.handed_over or export.failure:
                    continue
                step = self._export_step(
                    request_id, export, computed[request_id], scheduled, output
                )
                if step is not None:
                    meta.exports.append(step)
        meta.aborted_exports, self._aborted = self._aborted, []
        return meta

    def _export_step(
        self,
        request_id: str,
        export: _Export,
        computed: int,
        scheduled: int,
        output: SchedulerOutput,
    ) -> ExportStep | None:
        boundary, end = export.params.to_token, computed + scheduled
        lora, adapter = export.adapter
        if self._adapters.of(lora) != adapter:
            self._give_up(export, "nobody knows the weights of its adapter: the files have changed")
            return None
        reached = end >= boundary
        standing = tuple(tokens for tokens in export.states_due if tokens <= end)
        for tokens in standing:
            if not self._states.stand_at(
                tokens, computed=computed, end=end, prompt_tokens=export.prompt_tokens
            ):
                self._give_up(export, f"no step keeps the recurrent state at token {tokens}")
                return None
        export.states_due = export.states_due[len(standing) :]
        assert output.kv_connector_block_state is not None
        tables: BlockTables = output.kv_connector_block_state.resolve_block_ids(request_id)
        step = ExportStep(
            request_id=request_id,
            params=export.params,
            prompt_digest=export.prompt_digest,
            first_token=export.exported_tokens,
            end_token=max(export.exported_tokens, min(end, boundary)),
            final=reached,
            tables=tables,
            states_at=standing,
            prefix=export.prefix,
        )
        export.prefix = None
        export.exported_tokens = step.end_token
        export.handed_over = reached
        return step

    def _give_up(self, export: _Export, reason: str) -> None:
        export.failure = reason
        self._aborted.append((export.params.transfer_id, reason))

    def exports_failed(self, reasons: dict[str, str]) -> None:
        """A worker gave exports up (no agent, no slot in time): say so in their answers. One given
        up in a prompt's very last step comes too late for that; its transfer still fails."""
        for request_id, reason in reasons.items():
            export = self._exports.get(request_id)
            if export is not None and export.failure is None:
                self._give_up(export, reason)

    def request_finished(self, request: Request) -> dict[str, Any] | None:
        """Called once per request; returns the response's ``kv_transfer_params``."""
        self._loads.forget(request.request_id)
        export = self._exports.pop(request.request_id, None)
        self.answers.finished(request, keep=export is None)
        if export is None:
            return _refused_export(request, self._may_export)
        if not export.handed_over and export.failure is None:
            status = RequestStatus(request.status).name.lower()
            self._give_up(export, f"prefill ended early: {status}")
        result = ExportResult(
            transfer_id=export.params.transfer_id,
            ok=export.failure is None,
            reason=export.failure,
        )
        return msgspec.to_builtins(result)

    @property
    def has_pending_work(self) -> bool:
        """Whether a step is needed even without requests, to carry aborts and answers."""
        return bool(self._aborted) or self.answers.pending


def _computed_tokens(output: SchedulerOutput) -> dict[str, int]:
    computed = {r.req_id: r.num_computed_tokens for r in output.scheduled_new_reqs}
    cached = output.scheduled_cached_reqs
    computed.update(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
    return computed


def _refused_export(request: Request, may_export: bool) -> dict[str, Any] | None:
    """The answer to a request whose export parameters were refused when it arrived."""
    params = request.kv_transfer_params
    if not isinstance(params, dict) or params.get("prfaas") != "export":
        return None
    try:
        parse_handoff(params)
        reason = "kv_transfer_params: to_token is not a hand-off boundary of this prompt"
        if not may_export:
            reason = _EXPORTS_NOTHING
    except CallerError as error:
        reason = str(error)
    transfer_id = str(params.get("transfer_id"))[:64]
    return msgspec.to_builtins(ExportResult(transfer_id=transfer_id, ok=False, reason=reason))
