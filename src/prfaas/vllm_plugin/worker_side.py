"""The worker-side half: one tensor-parallel rank's pages, its agent, its exports and imports."""

from __future__ import annotations

from collections import Counter, deque
from functools import partial
from typing import TYPE_CHECKING

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorTransferResults
from vllm.logger import init_logger

from prfaas.engine_socket.client import AgentClient
from prfaas.vllm_plugin.export import Exporter
from prfaas.vllm_plugin.geometry import read_layout
from prfaas.vllm_plugin.load import Importer
from prfaas.vllm_plugin.metadata import StepMetadata, StepReport
from prfaas.vllm_plugin.pages import CpuCopier, PageCopier, page_view
from prfaas.vllm_plugin.spans import told_of

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig

# Under "vllm" so that the engine's own logging configuration applies.
logger = init_logger(f"vllm.{__name__}")


class WorkerSide:
    """What one rank does in a step, in the order in which vLLM calls."""

    def __init__(
        self,
        config: VllmConfig,
        kv_cache: KVCacheConfig,
        caches: dict[str, torch.Tensor],
        *,
        agent_socket: str,
        engine: str,
        tp_rank: int,
    ) -> None:
        names = [name for group in kv_cache.kv_cache_groups for name in group.layer_names]
        pages = {name: page_view(name, caches[name], kv_cache.num_blocks) for name in names}
        layout = read_layout(config, kv_cache, pages, caches, tp_rank=tp_rank)
        logger.info("KV layout %s (%s), agent %s", layout.fingerprint(), layout.model, agent_socket)
        self._caches = caches  # Exporter and Importer know them by address alone
        self._copier = _copier_for(pages[names[0]].device)
        self._client = AgentClient(agent_socket, engine=engine, layout=layout, arenas=self._copier)
        self._told = told_of(engine, tp_rank)
        parts = (self._client, layout, pages, self._copier, self._told)
        self._exporter = Exporter(*parts)
        self._importer = Importer(*parts)
        self._answers: deque[str] = deque()
        """Those that were copied, or given up; the copier's thread adds to it."""

    def step_begins(self, meta: StepMetadata) -> None:
        """Before the model runs: exports that will not be complete end."""
        for transfer_id, reason in meta.aborted_exports:
            self._exporter.abort(transfer_id, reason)

    def layer_computed(self, meta: StepMetadata, layer_name: str) -> None:
        """From the layer's own hook: what it has made final leaves."""
        for step in meta.exports:
            self._exporter.layer_computed(step, layer_name)

    def step_ended(self, meta: StepMetadata) -> None:
        """The rest leaves, and answers that are complete."""
        if meta.exports or meta.answers:
            self._exporter.step_ended([*meta.exports, *meta.answers])
            for answer in meta.answers:
                done = partial(self._answers.append, answer.params.transfer_id)
                self._copier.when_gathered(done)
            if meta.answers:
                self._copier.submit()
            # Here, not when the next step begins: before it tells us of that, vLLM has already
            # queued writes to reused blocks (zeroing, copies of recurrent states).
            self._copier.hold_model()

    def start_imports(self, meta: StepMetadata) -> None:
        """Loads begin; the model does not wait for them."""
        for item in meta.imports:
            self._importer.start(item)

    def take_results(self, finished_request_ids: set[str]) -> KVConnectorTransferResults:
        """Loads that have ended since the last call. See `Importer.take_results`."""
        results = self._importer.take_results(finished_request_ids)
        return KVConnectorTransferResults(
            finished_sending=set(),
            finished_recving=results.finished,
            failed_recving=results.failed,
        )

    def report(self) -> StepReport | None:
        """What the scheduler side is to know of exports and answers; None: nothing new."""
        failed = self._exporter.take_failures()
        answers: Counter[str] = Counter()
        while self._answers:
            answers[self._answers.popleft()] += 1
        return StepReport(failed, dict(answers)) if failed or answers else None

    def close(self) -> None:
        """End every thread, and the connection to the agent."""
        self._importer.close()
        self._copier.close()
        self._client.close()
        self._told.close()


def _copier_for(device: torch.device) -> PageCopier:
    if device.type != "cuda":
        return CpuCopier()
    from prfaas.vllm_plugin.cuda_copies import CudaCopier

    return CudaCopier(device)
