"""Answers, kept in the agent's cache when they are complete: the next turn finds them there.

Theory of operation. When a request ends, vLLM's own prefix cache holds its whole blocks, prompt and
answer, and of a model with recurrent states those at some blocks' ends: what vLLM would itself go
on from. So what it holds is looked up there, by the request's own hashes, up to the last block's
end with everything that an engine goes on from; the blocks are held (as a request would) for the
one step in which the workers copy them into the arena. They leave as a transfer from the engine to
its own agent that nobody reads: it is cached as soon as it is whole. What the agent has of the
prompt already is not sent again. Where the prompt was seen to part from another one, states are
kept as well.

This delays no answer: it has been given by then. Where the arena lends no slot at once, the answer
is not kept.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from vllm.v1.request import RequestStatus

from prfaas.core.handoff import ExportParams
from prfaas.core.layout import block_range
from prfaas.core.prompt_digest import prompt_digest
from prfaas.vllm_plugin.geometry import bare_groups
from prfaas.vllm_plugin.metadata import THIS_AGENT, BlockTables, ExportStep
from prfaas.vllm_plugin.prefix_names import PrefixNames

if TYPE_CHECKING:
    from vllm.v1.core.block_pool import BlockPool
    from vllm.v1.core.kv_cache_utils import KVCacheBlock
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.request import Request

_DEADLINE_S = 30.0
"""What copying an answer to the agent may take: it waits for others' slots."""
_COMPLETE = frozenset({RequestStatus.FINISHED_STOPPED, RequestStatus.FINISHED_LENGTH_CAPPED})


class _Held(NamedTuple):
    blocks: list[KVCacheBlock]
    ranks_left: int


class Answers:
    """The answers that one engine's scheduler keeps.

    Args:
        ranks: how many workers copy, each its own part.
        keeps: whether answers are kept at all.
    """

    def __init__(
        self, kv_cache: KVCacheConfig, names: PrefixNames, *, ranks: int = 1, keeps: bool = False
    ) -> None:
        self._groups = bare_groups(kv_cache)
        self._alignment = max(group.block_tokens for group in self._groups)
        self._names, self._ranks, self._keeps = names, ranks, keeps
        self.pool: BlockPool | None = None
        """vLLM's, set once it exists."""
        self._known: dict[str, int] = {}
        self._wanted: set[str] = set()
        self._steps: list[ExportStep] = []
        self._held: dict[str, _Held] = {}

    def note(self, request_id: str, tokens: int, *, keep: bool = False) -> None:
        """The agent has the first ``tokens`` tokens of a request's prompt, or will have them.
        ``keep``: this one is kept, whether or not others are."""
        self._known[request_id] = tokens // self._alignment * self._alignment
        if keep:
            self._wanted.add(request_id)

    def finished(self, request: Request, *, keep: bool = True) -> None:
        """A request has ended; what it was told of it is forgotten. Called while its blocks are
        still its own."""
        from_token = self._known.pop(request.request_id, 0)
        keeps = self._keeps or request.request_id in self._wanted
        self._wanted.discard(request.request_id)
        complete = request.status in _COMPLETE
        if not (keep and complete and keeps) or self.pool is None:
            return
        # The last token was sampled; its own KV was never computed.
        last = (request.num_tokens - 1) // self._alignment * self._alignment
        for end in range(last, from_token, -self._alignment):
            found = self._blocks(request, from_token, end)
            if found is not None:
                self._keep(request, from_token, end, *found)
                self._keep_parting(request, from_token, end)
                return

    def _keep_parting(self, request: Request, from_token: int, end: int) -> None:
        """The states where vLLM saw this prompt part from another, with one block of the rest: the
        next one that parts there goes on from them, by blocks that are kept already. Not for full
        attention, which goes on from any block's end."""
        parting = request.shared_prefix_boundary // self._alignment * self._alignment
        before = parting - self._alignment
        sparse = any(group.kind != "full_attention" for group in self._groups)
        if not sparse or not from_token <= before or not parting < end:
            return
        found = self._blocks(request, before, parting)
        if found is not None:
            self._keep(request, before, parting, *found)

    def forget_known(self) -> None:
        """What the agent has is found by this engine no more."""
        self._known.clear()

    def take_steps(self) -> list[ExportStep]:
        """What the workers are to copy in the next step."""
        steps, self._steps = self._steps, []
        return steps

    def copied(self, transfer_ids: Mapping[str, int]) -> None:
        """So many ranks have copied, or given up, their part of each."""
        for transfer_id, ranks in transfer_ids.items():
            held = self._held.pop(transfer_id, None)
            if held is None:
                continue
            if held.ranks_left > ranks:
                self._held[transfer_id] = held._replace(ranks_left=held.ranks_left - ranks)
            else:
                assert self.pool is not None
                self.pool.free_blocks(reversed(held.blocks))

    @property
    def pending(self) -> bool:
        """Whether something is still to be copied, or to be told."""
        return bool(self._steps or self._held)

    def _blocks(
        self, request: Request, from_token: int, end: int
    ) -> tuple[BlockTables, list[KVCacheBlock]] | None:
        """Where vLLM's prefix cache has [from_token, end) and all that an engine goes on from
        there; None where something is missing."""
        pool = self.pool
        assert pool is not None
        tables: list[list[int]] = [[0] * (end // g.block_tokens) for g in self._groups]
        blocks: list[KVCacheBlock] = []
        # States are few: whether there is one is known before all blocks are looked up.
        order = sorted(enumerate(self._groups), key=lambda item: item[1].kind != "recurrent")
        for number, group in order:
            scale = group.block_tokens // pool.hash_block_size
            for block in range(*block_range(group, from_token, end)):
                at = (block + 1) * scale - 1
                if at >= len(request.block_hashes):
                    return None
                cached = pool.get_cached_block(request.block_hashes[at], [number])
                if cached is None or cached[0].is_null:
                    return None
                tables[number][block] = cached[0].block_id
                blocks.append(cached[0])
        return tuple(tables), blocks

    def _keep(
        self,
        request: Request,
        from_token: int,
        end: int,
        tables: BlockTables,
        blocks: list[KVCacheBlock],
    ) -> None:
        names = self._names.of(request, tokens=end)
        prefix = None if names is None else names.stretch(from_token, end)
        if names is None or prefix is None:
            return
        assert self.pool is not None
        self.pool.touch(blocks)
        transfer_id = f"answer-{uuid.uuid4().hex}"
        self._held[transfer_id] = _Held(blocks, self._ranks)
        recurrent = any(group.kind == "recurrent" for group in self._groups)
        self._steps.append(
            ExportStep(
                request_id=transfer_id,
                params=ExportParams(
                    transfer_id=transfer_id,
                    destination=THIS_AGENT,
                    from_token=from_token,
                    to_token=end,
                    readers=(),
                    deadline_s=_DEADLINE_S,
                ),
                prompt_digest=prompt_digest(names.token_ids, to_token=end),
                first_token=from_token,
                end_token=end,
                final=True,
                tables=tables,
                states_at=(end,) if recurrent else (),
                prefix=prefix,
            )
        )
