"""What vLLM may rely on, and what it must never hear from this connector."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
vllm = pytest.importorskip("vllm")

from vllm.distributed.kv_transfer.kv_connector.v1.base import (  # noqa: E402
    KVConnectorBase_V1,
    KVConnectorRole,
    KVConnectorTransferResults,
    SupportsHMA,
)
from vllm.v1.kv_cache_interface import (  # noqa: E402
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    MambaSpec,
    SlidingWindowSpec,
)

from prfaas.core.errors import ConfigError, EngineError  # noqa: E402
from prfaas.vllm_plugin import connector as connector_module  # noqa: E402
from prfaas.vllm_plugin.connector import PrfaasConnector  # noqa: E402
from prfaas.vllm_plugin.load import LoadResults  # noqa: E402
from prfaas.vllm_plugin.metadata import StepMetadata  # noqa: E402
from prfaas.vllm_plugin.worker_side import WorkerSide  # noqa: E402


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


def test_sleep_mode_is_answered() -> None:
    assert PrfaasConnector.supports_sleep_mode(SimpleNamespace()) is False  # type: ignore[arg-type]


def test_an_untried_version_is_spoken_of_before_anything_of_it_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever fails then, the warning stands above it in the log."""
    said: list[str] = []

    def refuse(*_: object) -> None:
        raise EngineError("renamed")

    monkeypatch.setattr(connector_module.logger, "warning", said.append)
    monkeypatch.setattr(connector_module, "check_supported", refuse)
    monkeypatch.setattr(KVConnectorBase_V1, "__init__", lambda *_: None)
    nothing: Any = None
    for version in ("0.32.0", "0.99.0"):
        monkeypatch.setattr(vllm, "__version__", version)
        with pytest.raises(EngineError, match="renamed"):
            PrfaasConnector(nothing, nothing, nothing)
    (warning,) = said
    assert "vLLM 0.99.0 was not tried with prfaas" in warning


def test_what_is_kept_is_named_by_the_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An engine that comes back with others must not find what was computed with these."""
    named: list[str] = []

    def of_an_engine(made: Any, *_: object) -> None:
        transfer = SimpleNamespace(
            is_kv_producer=True, kv_load_failure_policy="recompute", kv_connector_extra_config={}
        )
        vars(made).update(_kv_transfer_config=transfer)

    monkeypatch.setattr(KVConnectorBase_V1, "__init__", of_an_engine)
    monkeypatch.setattr(connector_module, "check_supported", lambda *_: None)
    monkeypatch.setattr(
        connector_module, "SchedulerSide", lambda *_, weights, **__: named.append(weights)
    )
    config: Any = SimpleNamespace(
        model_config=SimpleNamespace(model=str(tmp_path), revision=None),
        parallel_config=SimpleNamespace(tensor_parallel_size=1),
    )
    nothing: Any = None
    for weights in (b"old", b"new", b"new"):
        (tmp_path / "model.safetensors").write_bytes(weights)
        PrfaasConnector(config, KVConnectorRole.SCHEDULER, nothing)
    assert named[0] != named[1] == named[2]


COMMON: dict[str, Any] = {
    "block_size": 16, "num_kv_heads": 1, "head_size": 8, "dtype": torch.bfloat16
}  # fmt: skip
FULL = FullAttentionSpec(**COMMON)
WINDOW = SlidingWindowSpec(**COMMON, sliding_window=64)
STATE = MambaSpec(block_size=16, shapes=((4,),), dtypes=(torch.float32,))


@pytest.mark.parametrize(
    ("specs", "allowed"),
    [
        ([STATE, FULL, STATE], True),
        ([STATE, FULL, WINDOW], False),
        ([STATE, FULL, FULL], False),
        ([STATE, WINDOW], False),
    ],
)
def test_only_states_may_lag_behind_a_local_hit(specs: list[Any], allowed: bool) -> None:
    """They come with every transfer; blocks before the local hit do not."""
    groups = [KVCacheGroupSpec([f"layers.{i}"], spec) for i, spec in enumerate(specs)]
    config = KVCacheConfig(num_blocks=8, kv_cache_tensors=[], kv_cache_groups=groups)
    assert connector(_kv_cache_config=config).supports_divergent_local_hybrid_hits is allowed


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


def test_a_reset_of_vllms_caches_reaches_what_lies_elsewhere() -> None:
    done: list[str] = []
    made = connector(_scheduler=SimpleNamespace(reset=lambda: done.append("reset")))
    assert made.reset_cache() is True
    assert done == ["reset"]


def test_no_request_is_ever_reported_as_sent() -> None:
    """Pages are copied out as they are computed, so no block is held for sending; a report that
    comes before the scheduler has finished the request would end the engine core."""
    worker = WorkerSide.__new__(WorkerSide)
    worker._importer = SimpleNamespace(take_results=lambda _: LoadResults())  # type: ignore[assignment]
    assert worker.take_results({"a"}).finished_sending == set()
    ended = SimpleNamespace(request_finished=lambda _: {"ok": True})
    made = connector(_scheduler=ended)
    assert made.request_finished_all_groups(SimpleNamespace(), ()) == (False, {"ok": True})  # type: ignore[arg-type]


@pytest.mark.parametrize(("extra", "piecewise"), [({}, True), ({"decodes": True}, False)])
def test_only_an_engine_that_never_decodes_gives_up_full_cuda_graphs(
    extra: dict[str, Any], piecewise: bool
) -> None:
    """They would skip the hook that pages leave from: all would leave when the step is over."""
    assert PrfaasConnector.requires_piecewise_for_cudagraph(extra) is piecewise


def test_a_missing_setting_is_named() -> None:
    extra = SimpleNamespace(kv_connector_extra_config={"engine": "west-decode"})
    with pytest.raises(ConfigError, match="lacks agent_socket"):
        connector(_kv_transfer_config=extra).register_kv_caches({})


def test_an_engine_that_strangers_can_reach_says_so_when_its_ranks_have_met(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    monkeypatch.setattr(connector_module.logger, "warning", said.append)
    monkeypatch.setattr(connector_module, "WorkerSide", lambda *_, **__: None)
    monkeypatch.setattr(connector_module, "_tp_rank", lambda: 0)
    settings = {"agent_socket": "/run/a.sock", "engine": "e"}
    extra = SimpleNamespace(kv_connector_extra_config=settings)
    made = connector(_kv_transfer_config=extra, _vllm_config=None, _kv_cache_config=None)
    with socket.create_server(("0.0.0.0", 0)) as stranger:
        made.register_kv_caches({})
        assert f"listens at 0.0.0.0:{stranger.getsockname()[1]}" in said[0]
    said.clear()
    with socket.create_server(("127.0.0.1", 0)):
        made.register_kv_caches({})
    assert said == []


def test_the_model_waits_for_copies_out_at_the_end_of_the_step_that_queued_them() -> None:
    """When vLLM announces the next step, it has already queued writes to reused blocks."""
    order: list[str] = []
    worker: Any = WorkerSide.__new__(WorkerSide)
    worker._exporter = SimpleNamespace(step_ended=lambda _: order.append("copies queued"))
    worker._copier = SimpleNamespace(hold_model=lambda: order.append("model held"))
    worker.step_ended(StepMetadata())
    assert order == []
    worker.step_ended(StepMetadata(exports=[SimpleNamespace()]))  # type: ignore[list-item]
    assert order == ["copies queued", "model held"]
