"""Worker side of an import: a complete, verified transfer is copied into the blocks vLLM reserved.

One thread waits for transfers and copies them, so the model's thread never waits. A load reports
success only after every page that vLLM will read has been written: those blocks were not zeroed,
and a load that covers less is a failure, which vLLM turns into a recompute.

Blocks of the local prefix cache are shared with other requests and are never written.
"""

from __future__ import annotations

import bisect
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from vllm.logger import init_logger

from prfaas.core.errors import EngineError, PrfaasError
from prfaas.core.layout import KvLayout, LayerSpan, TransferPlan
from prfaas.engine_socket.client import AgentClient
from prfaas.engine_socket.import_book import Extents
from prfaas.engine_socket.lent import Import
from prfaas.vllm_plugin.metadata import ImportStart
from prfaas.vllm_plugin.pages import PageCopier

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
        self._client, self._layout, self._pages, self._copier = client, layout, pages, copier
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
        arena = load.opened.session.arena
        self._copier.adopt_arena(arena)
        source = _FlatSource(arena, extents)
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
        # A recurrent state is one block, the last; vLLM has no local copy of it.
        first = end - 1 if group.kind == "recurrent" else item.local_tokens // group.block_tokens
        if len(table) < end:
            raise EngineError(f"{span.layer.name}: {len(table)} blocks reserved, {end} needed")
        for block in range(first, end):
            reserved, sent = table[block] != 0, block >= span.first_block
            if not reserved and not sent:
                continue  # outside a sliding window: vLLM will not read it
            if not reserved:
                raise EngineError(f"{span.layer.name}: block {block} has no place to be loaded to")
            if not sent:
                raise EngineError(f"{span.layer.name}: block {block} is not in the transfer")
            source.copy_to(
                pages[table[block]], span.offset_of(block), span.layer.page_bytes, self._copier
            )


class _FlatSource:
    """A transfer's bytes by flat offset, wherever they lie in the arena. ``extents`` cover it
    without a gap, which `AgentClient` has checked."""

    def __init__(self, arena: memoryview, extents: Extents) -> None:
        self._starts = [extent.flat_offset for extent in extents]
        self._memory = [
            torch.frombuffer(arena[extent.arena_offset : extent.arena_end], dtype=torch.uint8)
            for extent in extents
        ]

    def copy_to(
        self, page: torch.Tensor, flat_offset: int, length: int, copier: PageCopier
    ) -> None:
        at = bisect.bisect_right(self._starts, flat_offset) - 1
        done = 0
        while done < length:
            skip = flat_offset + done - self._starts[at]
            part = self._memory[at][skip : skip + length - done]
            copier.scatter(part, page[done : done + part.numel()])
            done += part.numel()
            at += 1
