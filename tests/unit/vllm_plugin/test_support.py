"""Every setting under which a hand-off could not be exact is refused, by the name of its option."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("vllm")

from vllm.v1.kv_cache_interface import (  # noqa: E402
    ChunkedLocalAttentionSpec,
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    MambaSpec,
)

from prfaas.core.errors import EngineError  # noqa: E402
from prfaas.vllm_plugin.support import answers_warning, check_supported  # noqa: E402

BLOCK = 256


def full(block: int = BLOCK) -> FullAttentionSpec:
    return FullAttentionSpec(block_size=block, num_kv_heads=1, head_size=8, dtype=torch.bfloat16)


def mamba() -> MambaSpec:
    return MambaSpec(block_size=BLOCK, shapes=((4,),), dtypes=(torch.float32,))


def groups(*specs: Any, **attributes: Any) -> KVCacheConfig:
    named = [KVCacheGroupSpec([f"layers.{i}"], spec) for i, spec in enumerate(specs)]
    return KVCacheConfig(num_blocks=8, kv_cache_tensors=[], kv_cache_groups=named, **attributes)


def engine(**settings: Any) -> Any:
    """A prefill engine that can do everything, but for ``settings``: a key is an attribute of one
    of its parts."""
    made = SimpleNamespace(
        parallel_config=SimpleNamespace(
            pipeline_parallel_size=1,
            data_parallel_size=1,
            data_parallel_index=0,
            data_parallel_external_lb=False,
            decode_context_parallel_size=1,
            prefill_context_parallel_size=1,
            use_ubatching=False,
        ),
        cache_config=SimpleNamespace(mamba_cache_mode="align"),
        kv_transfer_config=SimpleNamespace(
            is_kv_consumer=False,
            is_kv_producer=True,
            kv_load_failure_policy="fail",
            kv_connector_extra_config={},
        ),
        model_config=SimpleNamespace(enable_sleep_mode=False),
        speculative_config=None,
    )
    for name, value in settings.items():
        parts = [part for part in vars(made).values() if hasattr(part, name)]
        setattr(*(parts or [made]), name, value)
    return made


CHUNKED = ChunkedLocalAttentionSpec(
    block_size=BLOCK, num_kv_heads=1, head_size=8, dtype=torch.bfloat16, attention_chunk_size=512
)


EAGLE, NGRAM = SimpleNamespace(method="eagle"), SimpleNamespace(method="ngram")


@pytest.mark.parametrize(
    ("config", "cache", "named"),
    [
        (engine(), groups(full(), CHUNKED), "KV group 1 is of kind ChunkedLocalAttentionSpec"),
        (engine(), groups(), "no KV cache"),
        (engine(), groups(full(256), full(384)), r"\[256, 384\].*--block-size"),
        (engine(pipeline_parallel_size=2), groups(full()), "pipeline parallelism"),
        (engine(data_parallel_size=2), groups(full()), "data-parallel ranks behind one address"),
        (engine(data_parallel_index=1), groups(full()), "data-parallel ranks behind one address"),
        (engine(decode_context_parallel_size=2), groups(full()), "decode context parallelism"),
        (engine(prefill_context_parallel_size=2), groups(full()), "prefill context parallelism"),
        (engine(use_ubatching=True), groups(full()), "--enable-dbo"),
        (engine(is_kv_consumer=True), groups(full()), '"kv_load_failure_policy": "recompute"'),
        (engine(mamba_cache_mode="none"), groups(full(), mamba()), "--enable-prefix-caching"),
        (engine(enable_sleep_mode=True), groups(full()), "--enable-sleep-mode"),
        (engine(speculative_config=EAGLE), groups(full(), mamba()), r"decoding \(eagle\)"),
        (engine(speculative_config=NGRAM), groups(full(), mamba()), "--speculative-config"),
        (
            engine(),
            groups(full(), mamba(), hash_block_size=32, cache_hit_alignment_tokens=32),
            "every 32 tokens, inside blocks of 256.*--prefix-match-unit",
        ),
    ],
)
def test_what_cannot_be_exact_is_refused_by_name(
    config: Any, cache: KVCacheConfig, named: str
) -> None:
    with pytest.raises(EngineError, match=named):
        check_supported(config, cache)


@pytest.mark.parametrize(
    ("config", "cache"),
    [
        (engine(), groups(full(), mamba())),
        (engine(), groups(full(), mamba(), cache_hit_alignment_tokens=BLOCK, hash_block_size=32)),
        (engine(), groups(full(128), full(256))),
        (engine(speculative_config=EAGLE), groups(full())),
        (engine(speculative_config=NGRAM), groups(full())),
        (engine(data_parallel_size=2, data_parallel_external_lb=True), groups(full())),
        (engine(is_kv_consumer=True, kv_load_failure_policy="recompute"), groups(full())),
        (engine(use_ubatching=True, is_kv_producer=False), groups(full())),
    ],
)
def test_what_can_be_is_accepted(config: Any, cache: KVCacheConfig) -> None:
    check_supported(config, cache)


def caching(retention: int | None, *, on: bool = True) -> Any:
    kept = {"prefix_cache_retention_interval": retention, "enable_prefix_caching": on}
    return SimpleNamespace(cache_config=SimpleNamespace(**kept))


def test_it_is_said_where_vllm_forgets_what_an_answer_crossed() -> None:
    hybrid = groups(full(), mamba())
    said = answers_warning(caching(0), hybrid)
    assert "--prefix-cache-retention-interval None" in (said or "")
    assert answers_warning(caching(None), hybrid) is None
    assert answers_warning(caching(0), groups(full())) is None


def test_it_is_said_where_vllm_has_no_prefix_cache_to_keep_answers_from() -> None:
    """As with MLA on a CPU without AMX, whatever it was started with."""
    said = answers_warning(caching(None, on=False), groups(full()))
    assert "no answer is kept" in (said or "")
