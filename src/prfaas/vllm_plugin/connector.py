"""What vLLM loads: ``"kv_connector": "PrfaasConnector"``, ``"kv_connector_module_path":
"prfaas.vllm_plugin.connector"``.

vLLM makes two of these objects, one beside the scheduler and one in each worker (a single one may
share the scheduler's process); each delegates to its half. ``kv_connector_extra_config``:

    agent_socket  path of the agent's Unix socket
    engine        this engine's name in the deployment
    decodes       true on an engine that may be given answers: it uses full CUDA graphs for them
    keeps_answers true where what it has answered is to be cached by its agent

``kv_role`` says whether the engine exports, imports, or both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import vllm
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorTransferResults,
    SupportsHMA,
)
from vllm.logger import init_logger

from prfaas.core.errors import ConfigError
from prfaas.vllm_plugin.geometry import group_kinds
from prfaas.vllm_plugin.metadata import StepMetadata, StepReport
from prfaas.vllm_plugin.open_ports import open_ports, open_ports_warning
from prfaas.vllm_plugin.prefix_names import weights_identity
from prfaas.vllm_plugin.scheduler_side import SchedulerSide
from prfaas.vllm_plugin.support import answers_warning, check_supported
from prfaas.vllm_plugin.versions import version_warning
from prfaas.vllm_plugin.worker_side import WorkerSide

if TYPE_CHECKING:
    from vllm.config import KVTransferConfig, VllmConfig
    from vllm.forward_context import ForwardContext
    from vllm.v1.attention.backend import AttentionMetadata
    from vllm.v1.core.block_pool import BlockPool
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.outputs import KVConnectorOutput
    from vllm.v1.request import Request


# Under "vllm" so that the engine's own logging configuration applies.
logger = init_logger(f"vllm.{__name__}")


class PrfaasConnector(KVConnectorBase_V1, SupportsHMA):
    """Exports a prompt's KV cache while it is computed; imports one computed elsewhere."""

    def __init__(
        self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig
    ) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        if (warning := version_warning(vllm.__version__)) is not None:
            logger.warning(warning)
        check_supported(vllm_config, kv_cache_config)
        if self._keeps_answers and (warning := answers_warning(vllm_config, kv_cache_config)):
            logger.warning(warning)
        self._scheduler = (
            SchedulerSide(
                kv_cache_config,
                exports=self._kv_transfer_config.is_kv_producer,
                recomputes=self._kv_transfer_config.kv_load_failure_policy == "recompute",
                weights=weights_identity(vllm_config.model_config),
                ranks=vllm_config.parallel_config.tensor_parallel_size,
                keeps_answers=self._keeps_answers,
            )
            if role is KVConnectorRole.SCHEDULER
            else None
        )
        self._worker: WorkerSide | None = None

    @property
    def _keeps_answers(self) -> bool:
        transfer = self._kv_transfer_config
        return transfer.is_kv_producer and bool(
            transfer.kv_connector_extra_config.get("keeps_answers", False)
        )

    @classmethod
    def requires_piecewise_for_cudagraph(cls, extra_config: dict[str, Any]) -> bool:
        # Full CUDA graphs call no hook: what such a step computes leaves when it is over. On an
        # engine that decodes, that is a step of single tokens; a prompt's chunks run without them.
        return not extra_config.get("decodes", False)

    @classmethod
    def supports_sleep_mode(cls, kv_transfer_config: KVTransferConfig) -> bool:
        # Asked by vLLM from 0.33 on. Copies know pages by address, and some may be under way: that
        # they survive the cache's unmapping was never tried.
        return False

    @property
    def supports_divergent_local_hybrid_hits(self) -> bool:
        # A full-attention hit may be deeper than the states': they come with any transfer. Blocks
        # of other groups that such a hit takes for held, but are not, would not come.
        kinds = [kind for kind, _ in group_kinds(self._kv_cache_config)]
        return [kind for kind in kinds if kind != "recurrent"] == ["full_attention"]

    @property
    def requires_kv_delivery(self) -> bool:
        # What was exported lies in the arena: a preemption takes nothing from it.
        return False

    def get_loaded_kv_cache_group_ids(self, request: Request) -> tuple[int, ...]:
        return self._kv_cache_config.transfer_group_ids

    # Scheduler side

    @property
    def _scheduling(self) -> SchedulerSide:
        assert self._scheduler is not None
        return self._scheduler

    def on_new_request(self, request: Request) -> None:
        self._scheduling.on_new_request(request)

    def get_num_new_matched_tokens(
        self, request: Request, num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        return self._scheduling.get_num_new_matched_tokens(request, num_computed_tokens)

    def update_state_after_alloc(
        self, request: Request, blocks: KVCacheBlocks, num_external_tokens: int
    ) -> None:
        self._scheduling.update_state_after_alloc(request, blocks, num_external_tokens)

    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> KVConnectorMetadata:
        return self._scheduling.build_connector_meta(scheduler_output)

    def bind_gpu_block_pool(self, gpu_block_pool: BlockPool) -> None:
        self._scheduling.bind_block_pool(gpu_block_pool)

    def update_connector_output(self, connector_output: KVConnectorOutput) -> None:
        self._scheduling.loads_ended(
            connector_output.finished_recving or (), connector_output.failed_recving or ()
        )
        report = connector_output.kv_connector_worker_meta
        if isinstance(report, StepReport):
            self._scheduling.exports_failed(report.failed_exports)
            self._scheduling.answers.copied(report.answers)

    def request_finished_all_groups(
        self, request: Request, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        # Pages were copied out as they were computed: the blocks may be freed at once.
        return False, self._scheduling.request_finished(request)

    def reset_cache(self) -> bool:
        # Asked with vLLM's own reset after weights were changed in a running engine.
        self._scheduling.reset()
        return True

    def has_pending_push_work(self) -> bool:
        return self._scheduling.has_pending_work

    # Worker side

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        extra = self._kv_transfer_config.kv_connector_extra_config
        missing = [key for key in ("agent_socket", "engine") if not extra.get(key)]
        if missing:
            raise ConfigError(f"kv_connector_extra_config lacks {', '.join(missing)}")
        # Ranks have met by now; what vLLM itself is to publish is not open yet.
        if (warning := open_ports_warning(open_ports())) is not None:
            logger.warning(warning)
        self._worker = WorkerSide(
            self._vllm_config,
            self._kv_cache_config,
            kv_caches,
            agent_socket=extra["agent_socket"],
            engine=extra["engine"],
            tp_rank=_tp_rank(),
        )

    @property
    def _working(self) -> WorkerSide:
        assert self._worker is not None
        return self._worker

    def bind_connector_metadata(self, connector_metadata: KVConnectorMetadata) -> None:
        super().bind_connector_metadata(connector_metadata)
        self._working.step_begins(self._meta)

    @property
    def _meta(self) -> StepMetadata:
        meta = self._get_connector_metadata()
        assert isinstance(meta, StepMetadata)
        return meta

    def start_load_kv(self, forward_context: ForwardContext, **kwargs: Any) -> None:
        self._working.start_imports(self._meta)

    def wait_for_layer_load(self, layer_name: str) -> None:
        # Loads are asynchronous: a request runs only after its load was reported.
        return

    def save_kv_layer(
        self,
        layer_name: str,
        kv_layer: torch.Tensor,
        attn_metadata: AttentionMetadata,
        **kwargs: Any,
    ) -> None:
        # Warm-up runs come without metadata.
        if self._connector_metadata is not None:
            self._working.layer_computed(self._meta, layer_name)

    def wait_for_save(self) -> None:
        self._working.step_ended(self._meta)

    def get_transfer_results(self, finished_req_ids: set[str]) -> KVConnectorTransferResults:
        return self._working.take_results(finished_req_ids)

    def build_connector_worker_meta(self) -> StepReport | None:
        return self._working.report()

    def shutdown(self) -> None:
        if self._worker is not None:
            self._worker.close()


def _tp_rank() -> int:
    from vllm.distributed.parallel_state import get_tensor_model_parallel_rank

    return int(get_tensor_model_parallel_rank())
