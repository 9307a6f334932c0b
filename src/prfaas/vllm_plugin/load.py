"""Worker side of an import: a complete, verified transfer is copied into the blocks vLLM reserved.

One thread waits for transfers and copies them, so the model's thread never waits. A load reports
success only after every page that vLLM will read has been written: those blocks were not zeroed,
and a load that covers less is a failure, which vLLM turns into a recompute.

Blocks of the local prefix cache are shared with other requests and are never written.
"""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from vllm.logger import init_logger

from prfaas.core.conversion import LayerSource, layer_sources, parts_to_read
from prfaas.core.errors import EngineError, PrfaasError
from prfaas.core.layout import KvLayout, block_range, layers_in_model_order
from prfaas.core.transfer_plan import LayerSpan, TransferPlan
from prfaas.engine_socket.client import AgentClient
from prfaas.engine_socket.import_book import Extents
from prfaas.engine_socket.lent import Import
from prfaas.engine_socket.messages import OpenImport
from prfaas.vllm_plugin.cached import CachedLoad, CachedPages, open_cached
from prfaas.vllm_plugin.converting import Converter, SentLayer, Wanted
from prfaas.vllm_plugin.flat_source import FlatSource
from prfaas.vllm_plugin.metadata import ImportStart
from prfaas.vllm_plugin.pages import PageCopier, Pages
from prfaas.vllm_plugin.spans import NOTHING_TOLD, Told, called_load, ids_of_load

# Under "vllm" so that the engine's own logging configuration applies.
logger = init_logger(f"vllm.{__name__}")


class _Part(NamedTuple):
    """What one of the sender's ranks sends, and where it lies as soon as it is here."""

    plan: TransferPlan
    opened: Import


@dataclass
class _Load:
    start: ImportStart
    source: KvLayout
    began_at: float
    parts: dict[int, _Part] = field(default_factory=dict)
    cached: CachedLoad | None = None
    missing: int = 0
    cancelled: bool = False

    def waits(self) -> list[Future[Any]]:
        """What must be answered before it can be copied."""
        waits: list[Future[Any]] = [part.opened.future for part in self.parts.values()]
        if self.cached is not None:
            waits += [load.future for load in self.cached.loads.values()]
        return waits


@dataclass
class LoadResults:
    """Request ids since the last call; a failed one is also in ``finished``."""

    finished: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)


class Importer:
    """All imports of one rank."""

    def __init__(
        self,
        client: AgentClient,
        layout: KvLayout,
        pages: dict[str, torch.Tensor],
        copier: PageCopier,
        told: Told = NOTHING_TOLD,
    ) -> None:
        self._client, self._layout, self._copier = client, layout, copier
        self._told = told
        self._views = pages
        self._pages = {name: Pages.of(view) for name, view in pages.items()}
        self._layers = {layer.name: (g, layer) for g, layer in layers_in_model_order(layout)}
        self._converter = Converter(copier, next(iter(pages.values())).device)
        self._cached = CachedPages(layout, self._pages, copier)
        self._lock = threading.Lock()
        self._loads: dict[str, _Load] = {}
        self._results = LoadResults()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prfaas-load")

    def start(self, item: ImportStart) -> None:
        """Asks the agent for what is to be read, and lets the thread copy it once it is there."""
        load: _Load | None = None
        began_at = time.time()
        try:
            load = _Load(item, self._source_of(item), began_at)
            if item.transfer_id is not None:
                for rank in parts_to_read(load.source, self._layout):
                    load.parts[rank] = self._open(load, item.transfer_id, rank)
            if item.cached is not None:
                load.cached = open_cached(self._client, self._layout, item)
        except (PrfaasError, ValueError) as error:
            self._close(load)
            self._report(item, began_at, str(error))
            return
        waits = load.waits()
        load.missing = len(waits)
        with self._lock:
            self._loads[item.request_id] = load
        for future in waits:
            future.add_done_callback(partial(self._arrived, load))

    def _source_of(self, item: ImportStart) -> KvLayout:
        """How the sender holds what is loaded. Raises LayoutMismatch for what cannot be read."""
        if item.source is None:
            return self._layout
        source = KvLayout.unpacked(item.source)
        source.check_pairs_with(self._layout)
        return source

    def _open(self, load: _Load, transfer_id: str, part: int) -> _Part:
        layout, item = load.source.of_rank(part), load.start
        plan = TransferPlan(layout, from_token=item.from_token, to_token=item.to_token)
        request = OpenImport(
            transfer_id,
            item.from_token,
            item.to_token,
            plan.total_bytes,
            item.prompt_digest,
            part,
            layout.fingerprint(),
        )
        return _Part(plan, self._client.open_import(request))

    def _arrived(self, load: _Load, _: Future[Any]) -> None:
        """One more part is here, or never will be."""
        with self._lock:
            load.missing -= 1
            complete = load.missing == 0
        if complete:
            with contextlib.suppress(RuntimeError):  # The engine ends.
                self._thread.submit(self._run, load)

    def take_results(self, finished_request_ids: set[str]) -> LoadResults:
        """What ended since the last call. Loads of requests that vLLM has finished (aborted) are
        cancelled; their blocks stay pinned until they are reported here."""
        with self._lock:
            doomed = [self._loads[r] for r in finished_request_ids & self._loads.keys()]
            results, self._results = self._results, LoadResults()
        for load in doomed:
            load.cancelled = True
            for future in load.waits():
                future.cancel()
        return results

    def close(self) -> None:
        """End the thread; loads that have not begun are dropped."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _run(self, load: _Load) -> None:
        error: str | None = None
        try:
            extents = {n: part.opened.future.result() for n, part in load.parts.items()}
            self._copy(load, extents)
            if load.start.transfer_id is not None and load.start.prefix is not None:
                self._client.describe(load.start.transfer_id, load.start.prefix)
        except (PrfaasError, CancelledError) as failure:
            error = str(failure) or "cancelled"
        except Exception as failure:
            # vLLM must hear of this request, whatever happened: it waits for it.
            logger.exception("import %s", called_load(load.start), extra=ids_of_load(load.start))
            error = repr(failure)
        finally:
            self._close(load)
        self._report(load.start, load.began_at, error)

    def _close(self, load: _Load | None) -> None:
        if load is None:
            return
        for part in load.parts.values():
            self._client.close_import(part.opened)
        if load.cached is not None:
            for opened in load.cached.loads.values():
                self._client.close_load(opened)

    def _report(self, item: ImportStart, began_at: float, error: str | None) -> None:
        self._told.loaded(item, began_at, error)
        with self._lock:
            self._loads.pop(item.request_id, None)
            self._results.finished.add(item.request_id)
            if error is not None:
                self._results.failed.add(item.request_id)

    def _copy(self, load: _Load, extents: dict[int, Extents]) -> None:
        flat = {
            number: FlatSource(part.opened.session.arena, extents[number])
            for number, part in load.parts.items()
        }
        try:
            item = load.start
            if load.cached is not None:
                self._cached.copy(item, load.cached)
                item = replace(item, local_tokens=item.from_token)
            if not load.parts:
                return
            for name, source in layer_sources(load.source, self._layout).items():
                if load.cancelled:
                    raise EngineError("the request was aborted")
                if source.as_it_is:
                    (rank,) = source.ranks
                    span = load.parts[rank].plan.spans[name]
                    self._copy_layer(item, span, flat[rank])
                else:
                    self._convert_layer(load, item, source, flat)
        finally:
            # After a failure too: once it is reported, vLLM gives the blocks to somebody else.
            self._copier.wait_scattered()

    def _copy_layer(self, item: ImportStart, span: LayerSpan, source: FlatSource) -> None:
        number, layer = self._layers[span.layer.name]
        group = self._layout.groups[number]
        table = item.tables[number]
        pages = self._pages[layer.name]
        end = span.end_block
        if len(table) < end:
            raise EngineError(f"{layer.name}: {len(table)} blocks reserved, {end} needed")
        first = item.local_tokens // group.block_tokens
        if group.kind == "recurrent":
            first, table = _states_to_load(item, number, span.first_block, end)
        blocks = [block for block in range(first, end) if _to_load(table, block, span)]
        if blocks:
            addresses = np.array(pages.at([table[block] for block in blocks]), dtype=np.int64)
            copies = source.into(addresses, span.offset_of(blocks[0]), layer.page_bytes)
            self._copier.scatter(*copies)

    def _convert_layer(
        self, load: _Load, item: ImportStart, source: LayerSource, flat: dict[int, FlatSource]
    ) -> None:
        name = source.layer.name
        spans = {rank: load.parts[rank].plan.spans[name] for rank in source.ranks}

        def read(rank: int, start: int, stop: int, staged: torch.Tensor) -> None:
            """Each rank's runs of the pages, to where they were in them."""
            span = spans[rank]
            numbers = np.arange(stop - start, dtype=np.int64)
            pages = staged.data_ptr() + staged.stride(0) * numbers
            if len(span.runs) == 1:
                ((begin, end),) = span.runs
                copies = flat[rank].into(pages + begin, span.offset_of(start), end - begin)
                self._copier.scatter(*copies)
                return
            for block, page in zip(range(start, stop), pages, strict=True):
                offset = span.offset_of(block)
                for begin, end in span.runs:
                    copies = flat[rank].into(np.array([page + begin]), offset, end - begin)
                    self._copier.scatter(*copies)
                    offset += end - begin

        first = next(iter(spans.values()))
        sent = SentLayer(
            source.layer, load.source.groups[source.group], first.first_block, first.end_block
        )
        self._converter.convert(source, sent, self._wanted(item, name), read)

    def _wanted(self, item: ImportStart, name: str) -> Wanted:
        """Blocks that vLLM will read. Raises EngineError where one has no place."""
        number, layer = self._layers[name]
        group, table = self._layout.groups[number], item.tables[number]
        first, end = block_range(group, item.local_tokens, item.to_token)
        if len(table) < end:
            raise EngineError(f"{name}: {len(table)} blocks reserved, {end} needed")
        if group.kind == "recurrent":
            first, table = _states_to_load(item, number, first, end)
        for block in range(first, end):
            if table[block] == 0:
                raise EngineError(f"{name}: block {block} has no place to be loaded to")
        if group.kind == "sliding_window":
            for block in range(item.local_tokens // group.block_tokens, first):
                if table[block] != 0:  # vLLM would read it
                    raise EngineError(f"{name}: block {block} is not in the transfer")
        view = self._views[name]
        return Wanted(layer, group, view, table, first, end, item.to_token)


def _states_to_load(item: ImportStart, group: int, first: int, end: int) -> tuple[int, list[int]]:
    """The first block of a recurrent group to load, and its table. The request's own state is the
    last; the one before it is for other prompts, if a block is kept for it."""
    table, kept = item.tables[group], item.kept_states.get(group)
    if kept is None:
        return end - 1, table
    return first, [*table[: end - 2], kept, table[end - 1]]


def _to_load(table: list[int], block: int, span: LayerSpan) -> bool:
    """Raises EngineError for a block that vLLM would read and that would not be written."""
    reserved, sent = table[block] != 0, block >= span.first_block
    if not reserved and not sent:
        return False  # outside a sliding window: vLLM will not read it
    if not reserved:
        raise EngineError(f"{span.layer.name}: block {block} has no place to be loaded to")
    if not sent:
        raise EngineError(f"{span.layer.name}: block {block} is not in the transfer")
    return True
