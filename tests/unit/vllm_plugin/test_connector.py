"""What vLLM may rely on, and what it must never hear from this connector."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm")

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorTransferResults,
    SupportsHMA,
)

from prfaas.core.errors import ConfigError
from prfaas.vllm_plugin.connector import PrfaasConnector
from prfaas.vllm_plugin.load import LoadResults
from prfaas.vllm_plugin.worker_side import WorkerSide


def connector(**attributes: Any) -> PrfaasConnector:
    """Without vLLM's constructor, which wants a whole engine's configuration."""
    made = PrfaasConnector.__new__(PrfaasConnector)
    vars(made).update(attributes)
    return made


def test_hybrid_models_are_supported_with_every_group_loaded() -> None:
    assert issubclass(PrfaasConnector, SupportsHMA)
    groups = SimpleNamespace(transfer_group_ids=(0, 1, 2))
    made = connector(_kv_cache_config=groups)
    assert made.get_loaded_kv_cache_group_ids(SimpleNamespace()) == (0, 1, 2)  # type: ignore[arg-type]
    assert made.supports_divergent_local_hybrid_hits


def test_failed_loads_are_told_by_request_never_by_block() -> None:
    """With more than one group vLLM's engine core does not survive block ids."""
    assert (
        PrfaasConnector.get_block_ids_with_load_errors
        is KVConnectorBase_V1.get_block_ids_with_load_errors
    )
    worker = WorkerSide.__new__(WorkerSide)
    loads = LoadResults(finished={"a", "b"}, failed={"b"})
    worker._importer = SimpleNamespace(take_results=lambda _: loads)  # type: ignore[assignment]
    results = worker.take_results(set())
    assert isinstance(results, KVConnectorTransferResults)
    assert results.failed_recving == {"b"} <= results.finished_recving


def test_no_request_is_ever_reported_as_sent() -> None:
    """Pages are copied out as they are computed, so no block is held for sending; a report that
    comes before the scheduler has finished the request would end the engine core."""
    worker = WorkerSide.__new__(WorkerSide)
    worker._importer = SimpleNamespace(take_results=lambda _: LoadResults())  # type: ignore[assignment]
    assert worker.take_results({"a"}).finished_sending == set()
    ended = SimpleNamespace(request_finished=lambda _: {"ok": True})
    made = connector(_scheduler=ended)
    assert made.request_finished_all_groups(SimpleNamespace(), ()) == (False, {"ok": True})  # type: ignore[arg-type]


@pytest.mark.parametrize(("exports", "piecewise"), [({}, True), ({"exports": False}, False)])
def test_an_engine_that_exports_gives_up_full_cuda_graphs(
    exports: dict[str, Any], piecewise: bool
) -> None:
    """They would skip the hook that pages leave from."""
    assert PrfaasConnector.requires_piecewise_for_cudagraph(exports) is piecewise


def test_a_missing_setting_is_named() -> None:
    extra = SimpleNamespace(kv_connector_extra_config={"engine": "west-decode"})
    with pytest.raises(ConfigError, match="lacks agent_socket"):
        connector(_kv_transfer_config=extra).register_kv_caches({})
