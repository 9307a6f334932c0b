"""Worker side of a load from the agent's cache: where in the arena each page of a prefix lies.

The agent answers with parts, each the bytes of an earlier transfer of some of the prompt's tokens;
together they cover what this engine lacks. Pages are taken block by block from the first part that
has the whole block. The recurrent states are those of the part that ends last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from prfaas.core.conversion import layer_sources, parts_to_read
from prfaas.core.errors import EngineError
from prfaas.core.layout import KvGroup, KvLayout, LayerLayout
from prfaas.core.transfer_plan import LayerSpan, TransferPlan
from prfaas.engine_socket.client import AgentClient
from prfaas.engine_socket.lent import Load
from prfaas.engine_socket.messages import LoadedPart
from prfaas.vllm_plugin.flat_source import FlatSource
from prfaas.vllm_plugin.metadata import CachedPart, ImportStart
from prfaas.vllm_plugin.pages import PageCopier, Pages


class _Source(NamedTuple):
    """One part of one rank. ``whole_tokens``: blocks up to there are whole in it."""

    plan: TransferPlan
    bytes: FlatSource
    whole_tokens: int


@dataclass(frozen=True)
class CachedLoad:
    """A load from the cache that was asked for: one question per rank whose pages are needed."""

    cached: CachedPart
    loads: dict[int, Load]


def open_cached(client: AgentClient, layout: KvLayout, item: ImportStart) -> CachedLoad:
    """Ask for what ``item`` needs of the cache. Raises PrfaasError if it cannot be asked for."""
    cached = item.cached
    assert cached is not None
    loads: dict[int, Load] = {}
    try:
        for rank in parts_to_read(layout, layout):
            loads[rank] = client.open_load(
                local_tokens=item.local_tokens,
                to_token=cached.to_token,
                block_tokens=cached.block_tokens,
                names=cached.names,
                layout_fingerprint=layout.of_rank(rank).fingerprint(),
            )
    except BaseException:
        for load in loads.values():
            client.close_load(load)
        raise
    return CachedLoad(cached, loads)


class CachedPages:
    """Copies pages of a prefix from the arena into this rank's cache.

    Args:
        pages: layer name to its pages in vLLM's cache.
    """

    def __init__(self, layout: KvLayout, pages: dict[str, Pages], copier: PageCopier) -> None:
        self._layout, self._pages, self._copier = layout, pages, copier

    def copy(self, item: ImportStart, load: CachedLoad) -> None:
        """Start the copies of blocks [local_tokens, from_token) and, where no transfer follows, of
        the states at their end. Raises EngineError where a page that vLLM will read is missing."""
        sources = {
            rank: [self._source(rank, opened, part) for part in opened.future.result()]
            for rank, opened in load.loads.items()
        }
        for name, layer in layer_sources(self._layout, self._layout).items():
            if not layer.as_it_is:
                raise EngineError(f"{name}: its pages lie in parts of several ranks")
            (rank,) = layer.ranks
            self._copy_layer(item, layer.layer, layer.group, sources[rank])

    def _source(self, rank: int, opened: Load, part: LoadedPart) -> _Source:
        layout = self._layout.of_rank(rank)
        plan = TransferPlan(layout, from_token=part.from_token, to_token=part.to_token)
        found = sum(extent.length for extent in part.extents)
        if found != plan.total_bytes:
            raise EngineError(f"a cached part has {found} bytes instead of {plan.total_bytes}")
        return _Source(plan, FlatSource(opened.session.arena, part.extents), part.to_token)

    def _copy_layer(
        self, item: ImportStart, layer: LayerLayout, number: int, sources: list[_Source]
    ) -> None:
        group, table = self._layout.groups[number], item.tables[number]
        end = item.from_token // group.block_tokens
        if len(table) < end:
            raise EngineError(f"{layer.name}: {len(table)} blocks reserved, {end} needed")
        if group.kind == "recurrent":
            # With a transfer come the states as they stand at its end.
            blocks = [end - 1] if item.transfer_id is None else []
            sources = sources[:1]
        else:
            first = item.local_tokens // group.block_tokens
            blocks = [block for block in range(first, end) if _is_read(group, table, block)]
        for source, mine in _shared_out(layer, group, blocks, sources):
            span = source.plan.spans[layer.name]
            for first, stop in _runs(mine):
                ids = [table[block] for block in range(first, stop)]
                if 0 in ids:
                    raise EngineError(f"{layer.name}: a block has no place to be loaded to")
                addresses = np.array(self._pages[layer.name].at(ids), dtype=np.int64)
                copies = source.bytes.into(addresses, span.offset_of(first), layer.page_bytes)
                self._copier.scatter(*copies)


def _is_read(group: KvGroup, table: list[int], block: int) -> bool:
    """Outside of a sliding window vLLM reserves nothing and reads nothing."""
    return group.kind != "sliding_window" or table[block] != 0


def _shared_out(
    layer: LayerLayout, group: KvGroup, blocks: list[int], sources: list[_Source]
) -> list[tuple[_Source, list[int]]]:
    """Which blocks come from which source. Raises EngineError for one that none has."""
    found: list[tuple[_Source, list[int]]] = []
    left = blocks
    for source in sources:
        span = source.plan.spans.get(layer.name)
        if span is None:
            continue
        whole = source.whole_tokens // group.block_tokens
        mine = [block for block in left if _has(span, block, whole)]
        left = [block for block in left if not _has(span, block, whole)]
        found.append((source, mine))
    if left:
        raise EngineError(f"{layer.name}: block {left[0]} is not in what is cached")
    return found


def _has(span: LayerSpan, block: int, whole: int) -> bool:
    return span.first_block <= block < min(span.end_block, whole)


def _runs(blocks: list[int]) -> list[tuple[int, int]]:
    """Numbers in order, as ranges [first, end)."""
    found: list[tuple[int, int]] = []
    for block in blocks:
        if found and found[-1][1] == block:
            found[-1] = found[-1][0], block + 1
        else:
            found.append((block, block + 1))
    return found
