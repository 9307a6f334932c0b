"""The states at the last block's end of an exact hand-off, kept in vLLM's cache for other prompts.

Theory of operation. An exact hand-off ends inside a block. vLLM gives the request one block for the
state there, and none for the state at the last block's end, from which the next turn of the
conversation would go on. So a block of its own is taken from vLLM's pool for each recurrent group,
loaded with the rest, entered into the prefix cache under the prompt's own hash, and let go: it then
is a cached block like any other, evicted when its turn comes. Where the pool is nearly empty none
is taken: the next turn then computes more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prfaas.vllm_plugin.geometry import group_kinds

if TYPE_CHECKING:
    from vllm.v1.core.block_pool import BlockPool
    from vllm.v1.core.kv_cache_utils import KVCacheBlock
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.request import Request

_SPARE_SHARE = 0.05
"""Of the pool's blocks that must stay free."""


class KeptStates:
    """The states that one engine's scheduler keeps. ``pool`` is vLLM's, set once it exists."""

    def __init__(self, kv_cache: KVCacheConfig) -> None:
        self._block_tokens = {
            number: block_tokens
            for number, (kind, block_tokens) in enumerate(group_kinds(kv_cache))
            if kind == "recurrent"
        }
        self.pool: BlockPool | None = None
        self._loading: dict[str, tuple[Request, int, dict[int, KVCacheBlock]]] = {}

    def reserve(self, request: Request, tokens: int) -> dict[int, int]:
        """Group to the block for its state after ``tokens`` tokens, a block's end; empty where
        nothing is to be kept."""
        pool = self.pool
        if pool is None or not pool.enable_caching or not self._block_tokens:
            return {}
        groups = [
            group
            for group, block_tokens in self._block_tokens.items()
            if tokens % block_tokens == 0 and not self._cached(pool, request, group, tokens)
        ]
        spare = int(_SPARE_SHARE * pool.num_gpu_blocks)
        if not groups or pool.get_num_free_blocks() < len(groups) + spare:
            return {}
        blocks = dict(zip(groups, pool.get_new_blocks(len(groups)), strict=True))
        self._loading[request.request_id] = (request, tokens, blocks)
        return {group: block.block_id for group, block in blocks.items()}

    def settle(self, request_id: str, *, ok: bool) -> None:
        """The request's load has ended: cache what was loaded, if it was, and let it go."""
        request, tokens, blocks = self._loading.pop(request_id, (None, 0, {}))
        if request is None:
            return
        assert self.pool is not None
        for group, block in blocks.items():
            if ok:
                block_tokens = self._block_tokens[group]
                before = tokens // block_tokens - 1
                self.pool.cache_full_blocks(
                    request,
                    [self.pool.null_block] * before + [block],
                    before,
                    before + 1,
                    block_tokens,
                    group,
                )
        self.pool.free_blocks(blocks.values())

    def _cached(self, pool: BlockPool, request: Request, group: int, tokens: int) -> bool:
        """Whether the cache holds the state already."""
        hashes = request.block_hashes
        at = tokens // pool.hash_block_size - 1
        return at < len(hashes) and pool.get_cached_block(hashes[at], [group]) is not None
