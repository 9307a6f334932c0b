"""Worker side of an import: a complete, verified transfer is copied into the blocks vLLM reserved.

One thread waits for transfers and copies them, so the model's thread never waits. A load reports
success only after every page that vLLM will read has been written: those blocks were not zeroed,
and a load that covers less is a failure, which vLLM turns into a recompute.

Blocks of the local prefix cache are shared with other requests and are never written.
"""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from vllm.logger import init_logger

from prfaas.core.errors import EngineError, PrfaasError
from prfaas.core.layout import KvLayout, LayerSpan, TransferPlan
from prfaas.engine_socket.client import AgentClient
from prfaas.engine_socket.import_book import Extents
from prfaas.engine_socket.lent import Import
from prfaas.vllm_plugin.metadata import ImportStart
from prfaas.vllm_plugin.pages import Addresses, PageCopier, Pages, address_of

# Under "vllm" so that the engine's own logging configuration applies.
logger = init_logger(f"vllm.{__name__}")


@dataclass
class _Load:
    start: ImportStart
    opened: Import
    cancelled: bool = False


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
    ) -> None:
        self._client, self._layout, self._copier = client, layout, copier
        self._pages = {name: Pages.of(view) for name, view in pages.items()}
        self._lock = threading.Lock()
        self._loads: dict[str, _Load] = {}
        self._results = LoadResults()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prfaas-load")

    def start(self, item: ImportStart) -> None:
        plan = TransferPlan(self._layout, from_token=item.from_token, to_token=item.to_token)
        try:
            opened = self._client.open_import(
                item.transfer_id,
                from_token=item.from_token,
                to_token=item.to_token,
                total_bytes=plan.total_bytes,
            )
        except (PrfaasError, ValueError) as error:
            self._report(item, str(error))
            return
        load = _Load(item, opened)
        with self._lock:
            self._loads[item.request_id] = load
        opened.future.add_done_callback(lambda _: self._thread.submit(self._run, load, plan))

    def take_results(self, finished_request_ids: set[str]) -> LoadResults:
        """What ended since the last call. Loads of requests that vLLM has finished (aborted) are
        cancelled; their blocks stay pinned until they are reported here."""
        with self._lock:
            doomed = [self._loads[r] for r in finished_request_ids & self._loads.keys()]
            results, self._results = self._results, LoadResults()
        for load in doomed:
            load.cancelled = True
            load.opened.future.cancel()
        return results

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _run(self, load: _Load, plan: TransferPlan) -> None:
        error: str | None = None
        try:
            self._copy(load, plan, load.opened.future.result())
        except (PrfaasError, CancelledError) as failure:
            error = str(failure) or "cancelled"
        except Exception as failure:
            # vLLM must hear of this request, whatever happened: it waits for it.
            logger.exception("import %s", load.start.transfer_id)
            error = repr(failure)
        finally:
            self._client.close_import(load.opened)
        self._report(load.start, error)

    def _report(self, item: ImportStart, error: str | None) -> None:
        if error is not None:
            logger.warning("import %s failed, recomputing: %s", item.transfer_id, error)
        with self._lock:
            self._loads.pop(item.request_id, None)
            self._results.finished.add(item.request_id)
            if error is not None:
                self._results.failed.add(item.request_id)

    def _copy(self, load: _Load, plan: TransferPlan, extents: Extents) -> None:
        source = _FlatSource(load.opened.session.arena, extents)
        try:
            for span in plan.spans.values():
                if load.cancelled:
                    raise EngineError("the request was aborted")
                self._copy_layer(load.start, span, source)
        finally:
            # After a failure too: once it is reported, vLLM gives the blocks to somebody else.
            self._copier.wait_scattered()

    def _copy_layer(self, item: ImportStart, span: LayerSpan, source: _FlatSource) -> None:
        group = self._layout.groups[span.group]
        table = item.tables[span.group]
        pages = self._pages[span.layer.name]
        end = span.end_block
        if len(table) < end:
            raise EngineError(f"{span.layer.name}: {len(table)} blocks reserved, {end} needed")
        first = item.local_tokens // group.block_tokens
        if group.kind == "recurrent":
            # The request's own state is the last; the one before it is for other prompts.
            first, kept = end - 1, item.kept_states.get(span.group)
            if kept is not None:
                first, table = span.first_block, [*table[: end - 2], kept, table[end - 1]]
        blocks = [block for block in range(first, end) if _to_load(table, block, span)]
        if blocks:
            addresses = np.array(pages.at([table[block] for block in blocks]), dtype=np.int64)
            copies = source.into(addresses, span.offset_of(blocks[0]), span.layer.page_bytes)
            self._copier.scatter(*copies)


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


class _FlatSource:
    """A transfer's bytes by flat offset, wherever they lie in the arena. ``extents`` cover it
    without a gap, which `AgentClient` has checked."""

    def __init__(self, arena: memoryview, extents: Extents) -> None:
        self._starts = np.array([extent.flat_offset for extent in extents], dtype=np.int64)
        offsets = np.array([extent.arena_offset for extent in extents], dtype=np.int64)
        self._addresses = address_of(arena) + offsets

    def into(
        self, pages: Addresses, flat_offset: int, page_bytes: int
    ) -> tuple[Addresses, Addresses, Addresses]:
        """Sources, targets and sizes that fill ``pages``, which follow each other in flat space
        from ``flat_offset`` on: cut where a page or a piece ends."""
        end = flat_offset + len(pages) * page_bytes
        low, high = np.searchsorted(self._starts, (flat_offset, end))
        page_starts = flat_offset + page_bytes * np.arange(len(pages), dtype=np.int64)
        cuts = np.union1d(page_starts, self._starts[low:high])
        page = (cuts - flat_offset) // page_bytes
        piece = np.searchsorted(self._starts, cuts, side="right") - 1
        sources = self._addresses[piece] + cuts - self._starts[piece]
        return sources, pages[page] + cuts - page_starts[page], np.diff(cuts, append=end)
