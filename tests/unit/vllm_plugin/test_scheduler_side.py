"""Which tokens move in which step, decided on vLLM's own specs and plain stand-ins of requests."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("vllm")

from vllm.lora.request import LoRARequest  # noqa: E402
from vllm.v1.kv_cache_interface import (  # noqa: E402
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    MambaSpec,
)
from vllm.v1.request import RequestStatus  # noqa: E402

from prfaas.core.prompt_digest import prompt_digest  # noqa: E402
from prfaas.vllm_plugin.adapter_identity import AdapterIdentities  # noqa: E402
from prfaas.vllm_plugin.metadata import ExportStep, StepMetadata  # noqa: E402
from prfaas.vllm_plugin.scheduler_side import SchedulerSide  # noqa: E402

BLOCK = 256


def full(block: int = BLOCK) -> FullAttentionSpec:
    return FullAttentionSpec(block_size=block, num_kv_heads=1, head_size=8, dtype=torch.bfloat16)


def mamba(**kwargs: Any) -> MambaSpec:
    return MambaSpec(block_size=BLOCK, shapes=((4,),), dtypes=(torch.float32,), **kwargs)


def config(*specs: Any) -> KVCacheConfig:
    groups = [KVCacheGroupSpec([f"layers.{i}"], spec) for i, spec in enumerate(specs)]
    return KVCacheConfig(num_blocks=8, kv_cache_tensors=[], kv_cache_groups=groups)


def request(n: int, params: dict[str, Any] | None, status: Any = None) -> Any:
    return SimpleNamespace(
        request_id="r",
        num_prompt_tokens=n,
        all_token_ids=list(range(n)),
        prompt_token_ids=list(range(n)),
        mm_features=[],
        prompt_embeds=None,
        cache_salt="a salt",
        lora_request=None,
        kv_transfer_params=params,
        status=status or RequestStatus.FINISHED_LENGTH_CAPPED,
    )


def export(to_token: int, from_token: int = 0) -> dict[str, Any]:
    return {
        "prfaas": "export",
        "transfer_id": "t",
        "destination": "west",
        "readers": ["w"],
        "from_token": from_token,
        "to_token": to_token,
    }


def import_(to_token: int, from_token: int = 0) -> dict[str, Any]:
    return {
        "prfaas": "import",
        "transfer_id": "t",
        "from_token": from_token,
        "to_token": to_token,
    }


def step(side: SchedulerSide, computed: int, scheduled: int, *, new: bool = False) -> StepMetadata:
    empty = SimpleNamespace(req_ids=[], num_computed_tokens=[])
    cached = SimpleNamespace(req_ids=["r"], num_computed_tokens=[computed])
    output: Any = SimpleNamespace(
        scheduled_new_reqs=[SimpleNamespace(req_id="r", num_computed_tokens=computed)]
        if new
        else [],
        scheduled_cached_reqs=empty if new else cached,
        num_scheduled_tokens={"r": scheduled},
        kv_connector_block_state=SimpleNamespace(resolve_block_ids=lambda _: ([1, 2], [3, 4])),
    )
    return side.build_connector_meta(output)


def ranges(steps: list[ExportStep]) -> list[tuple[int, int, bool]]:
    return [(s.first_token, s.end_token, s.final) for s in steps]


def exporting(
    n: int, params: dict[str, Any], *specs: Any, may_export: bool = True
) -> tuple[SchedulerSide, Any]:
    side = SchedulerSide(config(*(specs or (full(), mamba()))), exports=may_export)
    prompt = request(n, params)
    side.on_new_request(prompt)
    return side, prompt


def test_a_prompt_leaves_chunk_by_chunk_up_to_its_boundary() -> None:
    side, prompt = exporting(5000, export(4864))
    assert ranges(step(side, 0, 2048, new=True).exports) == [(0, 2048, False)]
    assert ranges(step(side, 2048, 2048).exports) == [(2048, 4096, False)]
    assert ranges(step(side, 4096, 768).exports) == [(4096, 4864, True)]
    assert step(side, 4864, 136).exports == []
    assert side.request_finished(prompt) == {
        "prfaas": "exported",
        "transfer_id": "t",
        "ok": True,
        "reason": None,
        # vLLM writes how much was cached where this is asked for.
        "do_remote_prefill": True,
        "remote_prefill_cached_tokens": None,
    }


def test_an_exact_hand_off_ends_with_the_prompt_and_has_the_last_blocks_state_too() -> None:
    """The prefill engine is given the prompt without its last token."""
    side, prompt = exporting(999, export(999))
    first, second = step(side, 0, 768, new=True), step(side, 768, 231)
    assert ranges(first.exports) == [(0, 768, False)]
    assert ranges(second.exports) == [(768, 999, True)]
    assert [s.states_at for s in (*first.exports, *second.exports)] == [(768,), (999,)]
    result = side.request_finished(prompt)
    assert result is not None
    assert result["ok"]


def test_an_exact_hand_off_of_less_than_a_block_has_one_state() -> None:
    side, _ = exporting(200, export(200))
    (only,) = step(side, 0, 200, new=True).exports
    assert (only.first_token, only.end_token, only.final, only.states_at) == (0, 200, True, (200,))


def test_an_exact_hand_off_of_which_the_last_block_is_cached_has_both_states_at_once() -> None:
    side, _ = exporting(999, export(999))
    (only,) = step(side, 768, 231, new=True).exports
    assert only.states_at == (768, 999)


def test_an_exact_hand_off_without_the_last_blocks_state_is_given_up() -> None:
    side, prompt = exporting(999, export(999))
    assert step(side, 512, 487, new=True).exports == []
    result = side.request_finished(prompt)
    assert result is not None
    assert "no step keeps the recurrent state at token 768" in result["reason"]


def test_an_exact_hand_off_needs_states_at_the_ends_of_the_largest_blocks() -> None:
    side, _ = exporting(999, export(999), full(512), mamba())
    assert step(side, 0, 999, new=True).exports == []


def test_only_what_the_receiver_lacks_leaves() -> None:
    side, _ = exporting(1000, export(768, from_token=512))
    assert ranges(step(side, 0, 768, new=True).exports) == [(512, 768, True)]


def test_blocks_from_the_engines_own_cache_leave_too() -> None:
    side, _ = exporting(1000, export(768))
    assert ranges(step(side, 512, 256, new=True).exports) == [(0, 768, True)]


def test_a_hit_that_ends_at_the_boundary_is_exported_from_the_hit() -> None:
    side, _ = exporting(1000, export(768))
    assert ranges(step(side, 768, 232, new=True).exports) == [(0, 768, True)]


def keeping() -> MambaSpec:
    """Mamba-2's: its kernel keeps the state at the prompt's last boundary inside a chunk."""
    return mamba(num_prefill_checkpoint_blocks=1, prefill_checkpoint_alignment=1)


def test_a_state_kept_inside_the_prompts_last_chunk_is_exported() -> None:
    side, _ = exporting(1000, export(768), full(), keeping(), keeping())
    assert ranges(step(side, 512, 488, new=True).exports) == [(0, 768, True)]


@pytest.mark.parametrize(
    ("n", "boundary", "computed", "scheduled", "specs"),
    [
        pytest.param(1000, 768, 512, 488, [mamba()], id="kernel keeps none"),
        pytest.param(1000, 768, 512, 488, [keeping(), mamba()], id="one group keeps none"),
        pytest.param(1000, 768, 600, 400, [keeping()], id="chunk starts inside a block"),
        pytest.param(5000, 768, 0, 1024, [keeping()], id="chunk does not complete the prompt"),
        pytest.param(1000, 512, 0, 1000, [keeping()], id="not the last boundary"),
    ],
)
def test_a_state_that_is_kept_nowhere_is_not_exported(
    n: int, boundary: int, computed: int, scheduled: int, specs: list[Any]
) -> None:
    side, prompt = exporting(n, export(boundary), full(), *specs)
    meta = step(side, computed, scheduled, new=True)
    assert meta.exports == []
    assert [transfer_id for transfer_id, _ in meta.aborted_exports] == ["t"]
    result = side.request_finished(prompt)
    assert result is not None
    assert not result["ok"]
    assert f"no step keeps the recurrent state at token {boundary}" in result["reason"]


def test_without_recurrent_layers_no_step_needs_to_end_at_the_boundary() -> None:
    side, _ = exporting(1000, export(768), full())
    assert ranges(step(side, 512, 488, new=True).exports) == [(0, 768, True)]


def test_a_preempted_prefill_exports_nothing_twice() -> None:
    side, _ = exporting(5000, export(4864))
    step(side, 0, 2048, new=True)
    assert ranges(step(side, 0, 2048).exports) == [(2048, 2048, False)]
    assert ranges(step(side, 2048, 2816).exports) == [(2048, 4864, True)]


def test_an_aborted_prefill_says_so() -> None:
    side, prompt = exporting(5000, export(4864))
    step(side, 0, 2048, new=True)
    prompt.status = RequestStatus.FINISHED_ABORTED
    result = side.request_finished(prompt)
    assert result is not None
    assert "finished_aborted" in result["reason"]
    assert side.has_pending_work
    assert step(side, 0, 0).aborted_exports[0][0] == "t"
    assert not side.has_pending_work


def test_a_workers_failure_is_in_the_answer() -> None:
    side, prompt = exporting(5000, export(4864))
    step(side, 0, 2048, new=True)
    side.exports_failed({"r": "no agent", "unknown": "x"})
    assert step(side, 2048, 2048).exports == []
    result = side.request_finished(prompt)
    assert result is not None
    assert (result["ok"], result["reason"]) == (False, "no agent")


@pytest.mark.parametrize(
    ("params", "said"),
    [
        (export(700), "not a hand-off boundary"),
        (export(1024), "not a hand-off boundary"),
        (export(0), "not a hand-off boundary"),
        ({**export(768), "transfer_id": "a/b"}, "transfer_id"),
        ({**export(768), "deadline_s": -1}, "deadline_s"),
        (export(256, from_token=512), "from_token 512 > to_token 256"),
    ],
)
def test_bad_parameters_are_answered_not_raised(params: dict[str, Any], said: str) -> None:
    side, prompt = exporting(1000, params)
    assert step(side, 0, 1000, new=True).exports == []
    result = side.request_finished(prompt)
    assert result is not None
    assert not result["ok"]
    assert said in result["reason"]


def test_an_import_asks_for_what_is_not_local_and_asynchronously() -> None:
    side, prompt = exporting(1000, import_(768, from_token=256))
    assert side.get_num_new_matched_tokens(prompt, 256) == (512, True)
    assert side.get_num_new_matched_tokens(prompt, 512) == (256, True)
    assert side.get_num_new_matched_tokens(prompt, 768) == (0, False)


def test_a_prefix_evicted_since_is_recomputed() -> None:
    side, prompt = exporting(1000, import_(768, from_token=256))
    assert side.get_num_new_matched_tokens(prompt, 0) == (0, False)


def test_a_request_loads_once() -> None:
    side, prompt = exporting(1000, import_(768))
    blocks: Any = SimpleNamespace(get_block_ids=lambda: ([1, 2, 3], [0, 0, 4]))
    assert side.get_num_new_matched_tokens(prompt, 0) == (768, True)
    side.update_state_after_alloc(prompt, blocks, 768)
    (start,) = step(side, 0, 0).imports
    assert (start.from_token, start.to_token, start.local_tokens) == (0, 768, 0)
    # vLLM calls again once the load is over, and asks again when it failed.
    side.update_state_after_alloc(prompt, blocks, 0)
    assert side.get_num_new_matched_tokens(prompt, 0) == (0, False)


@pytest.mark.parametrize("params", [import_(1000), import_(1024), {"prfaas": "import"}, None, {}])
def test_an_import_of_the_whole_prompt_or_nothing_is_recomputed(params: Any) -> None:
    side, prompt = exporting(1000, params)
    assert side.get_num_new_matched_tokens(prompt, 0) == (0, False)
    assert side.request_finished(prompt) is None


def test_an_engine_that_only_imports_says_that_it_exports_nothing() -> None:
    side, prompt = exporting(1000, export(768), may_export=False)
    assert step(side, 0, 1000, new=True).exports == []
    answer = side.request_finished(prompt)
    assert answer is not None
    assert not answer["ok"]
    assert "kv_consumer" in answer["reason"]


def test_an_exact_import_leaves_the_last_token() -> None:
    side, prompt = exporting(1000, import_(999, from_token=256))
    assert side.get_num_new_matched_tokens(prompt, 768) == (231, True)


def test_what_leaves_and_what_is_loaded_is_bound_to_the_requests_own_prompt() -> None:
    digest = prompt_digest(range(768), to_token=768, salt="a salt")
    side, _ = exporting(1000, export(768))
    (sent,) = step(side, 0, 768, new=True).exports
    assert sent.prompt_digest == digest

    side, prompt = exporting(1000, import_(768))
    blocks: Any = SimpleNamespace(get_block_ids=lambda: ([1, 2, 3], [0, 0, 4]))
    assert side.get_num_new_matched_tokens(prompt, 0) == (768, True)
    side.update_state_after_alloc(prompt, blocks, 768)
    (start,) = step(side, 0, 0).imports
    assert start.prompt_digest == digest


def test_what_leaves_is_bound_to_its_adapter() -> None:
    side, prompt = SchedulerSide(config(full(), mamba())), request(1000, export(768))
    prompt.lora_request = SimpleNamespace(
        lora_name="poet", lora_int_id=1, lora_path="some/where", load_inplace=False
    )
    side.on_new_request(prompt)
    (sent,) = step(side, 0, 768, new=True).exports
    without = prompt_digest(range(768), to_token=768, salt="a salt")
    assert sent.prompt_digest != without
    assert sent.prompt_digest == prompt_digest(
        range(768), to_token=768, salt="a salt", adapter=AdapterIdentities().of(prompt.lora_request)
    )


def test_what_is_computed_while_an_adapter_is_exchanged_leaves_no_more(tmp_path: Path) -> None:
    """Its first pages are of the old weights, the others would be of the new ones; and of what
    comes later vLLM's own cache may have pages of the old ones still."""
    side, prompt = SchedulerSide(config(full(), mamba())), request(5000, export(4864))
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(b"old")
    prompt.lora_request = LoRARequest("poet", 1, str(tmp_path))
    side.on_new_request(prompt)
    assert step(side, 0, 2048, new=True).exports
    weights.write_bytes(b"new weights")
    later = step(side, 2048, 2048)
    assert later.exports == []
    assert [transfer_id for transfer_id, _ in later.aborted_exports] == ["t"]
    side.request_finished(prompt)

    prompt.lora_request = LoRARequest("poet", 2, str(tmp_path))
    side.on_new_request(prompt)
    later = step(side, 0, 2048, new=True)
    assert (later.exports, len(later.aborted_exports)) == ([], 1)


@pytest.mark.parametrize(
    "more",
    [
        {"prompt_token_ids": None},
        {"mm_features": ["a picture"]},
        {"prompt_embeds": "vectors, where token ids are placeholders"},
    ],
)
def test_a_prompt_that_token_ids_do_not_say_is_not_handed_over(more: dict[str, Any]) -> None:
    side = SchedulerSide(config(full()))
    prompt = SimpleNamespace(**{**vars(request(1000, import_(768))), **more})
    side.on_new_request(cast("Any", prompt))
    assert side.get_num_new_matched_tokens(cast("Any", prompt), 0) == (0, False)


def test_after_a_reset_nothing_is_loaded_that_was_named_before_it() -> None:
    """vLLM's caches are reset when an engine's weights were changed while it runs."""
    side = SchedulerSide(config(full(), mamba()))
    for params in ({"prfaas": "load", "pool_tokens": 2048}, import_(4864)):
        side.on_new_request(request(5000, params))
        before = side.get_num_new_matched_tokens(request(5000, params), 0)
        assert before[0] > 0
        side.reset()
        assert side.get_num_new_matched_tokens(request(5000, params), 0) == (0, False)
    side.on_new_request(request(5000, {"prfaas": "load", "pool_tokens": 2048}))
    assert side.get_num_new_matched_tokens(request(5000, None), 0) == (2048, True)


def test_an_export_that_a_reset_interrupts_says_so() -> None:
    """Its first pages are of the old weights, the others would be of the new ones."""
    side, prompt = exporting(5000, export(4864))
    assert step(side, 0, 2048, new=True).exports
    side.reset()
    after = step(side, 2048, 2048)
    assert after.exports == []
    assert after.aborted_exports == [("t", "the engine's caches were reset")]
    answer = side.request_finished(prompt)
    assert answer is not None
    assert not answer["ok"]


def test_what_was_handed_over_before_a_reset_is_whole() -> None:
    side, prompt = exporting(5000, export(4864))
    step(side, 0, 4864, new=True)
    side.reset()
    answer = side.request_finished(prompt)
    assert answer is not None
    assert answer["ok"]
