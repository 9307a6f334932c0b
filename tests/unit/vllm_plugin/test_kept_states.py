"""The state at the last block's end of an exact hand-off, in vLLM's own block pool."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("vllm")

from vllm.v1.core.block_pool import BlockPool  # noqa: E402
from vllm.v1.core.kv_cache_utils import BlockHash  # noqa: E402
from vllm.v1.kv_cache_interface import (  # noqa: E402
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    MambaSpec,
)

from prfaas.vllm_plugin.kept_states import KeptStates  # noqa: E402

BLOCK = 256
STATES = 1
"""The recurrent group."""


def kept_states(blocks: int = 40) -> tuple[KeptStates, BlockPool]:
    full = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=8, dtype=torch.bfloat16)
    mamba = MambaSpec(block_size=BLOCK, shapes=((4,),), dtypes=(torch.float32,))
    groups = [KVCacheGroupSpec([f"layers.{n}"], spec) for n, spec in enumerate((full, mamba))]
    kept = KeptStates(KVCacheConfig(blocks, kv_cache_tensors=[], kv_cache_groups=groups))
    kept.pool = BlockPool(blocks, enable_caching=True, hash_block_size=BLOCK)
    return kept, kept.pool


def request(tokens: int) -> Any:
    hashes = [BlockHash(bytes([n]) * 32) for n in range(tokens // BLOCK)]
    return SimpleNamespace(request_id="r", block_hashes=hashes)


def test_what_was_loaded_is_found_under_the_prompts_hash_and_may_be_evicted() -> None:
    kept, pool = kept_states()
    free, prompt = pool.get_num_free_blocks(), request(1000)
    (group,), (block_id,) = zip(*kept.reserve(prompt, 768).items(), strict=True)
    assert (group, pool.get_num_free_blocks()) == (STATES, free - 1)
    assert pool.get_cached_block(prompt.block_hashes[2], [STATES]) is None
    kept.settle("r", ok=True)
    found = pool.get_cached_block(prompt.block_hashes[2], [STATES])
    assert found is not None
    assert [block.block_id for block in found] == [block_id]
    assert pool.get_cached_block(prompt.block_hashes[1], [STATES]) is None
    assert pool.get_num_free_blocks() == free


def test_a_failed_load_leaves_nothing() -> None:
    kept, pool = kept_states()
    free, prompt = pool.get_num_free_blocks(), request(1000)
    assert kept.reserve(prompt, 768)
    kept.settle("r", ok=False)
    kept.settle("r", ok=True)
    assert pool.get_cached_block(prompt.block_hashes[2], [STATES]) is None
    assert pool.get_num_free_blocks() == free


def test_what_is_cached_already_is_not_loaded_again() -> None:
    kept, _ = kept_states()
    assert kept.reserve(request(1000), 768)
    kept.settle("r", ok=True)
    assert kept.reserve(request(1000), 768) == {}


def test_a_nearly_full_cache_keeps_its_blocks_for_requests() -> None:
    kept, pool = kept_states(40)
    pool.get_new_blocks(pool.get_num_free_blocks() - 2)
    assert kept.reserve(request(1000), 768) == {}
