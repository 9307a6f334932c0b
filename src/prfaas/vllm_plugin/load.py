"""Worker side of an import: a complete, verified transfer is copied into the blocks vLLM reserved.

One thread waits for transfers and copies them, so the model's thread never waits. A load reports
success only after every page that vLLM will read has been written: those blocks were not zeroed,
and a load that covers less is a failure, which vLLM turns into a recompute.

Blocks of the local prefix cache are shared with other requests and are never written.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from vllm.logger import init_logger

from prfaas.core.errors import EngineError, PeerError, PrfaasError
from prfaas.core.layout import KvLayout, LayerSpan, TransferPlan
from prfaas.transfer.local.client import AgentClient
from prfaas.transfer.local.messages import OpenImport, Piece
from prfaas.vllm_plugin.metadata import ImportStart
from prfaas.vllm_plugin.pages import PageCopier

logger = init_logger(__name__)


Pieces = Sequence[Piece]


@dataclass
class _Load:
    start: ImportStart
    answer: Future[Pieces]
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
        arena: Callable[[], torch.Tensor],
    ) -> None:
        self._client, self._layout, self._pages, self._copier = client, layout, pages, copier
        self._arena = arena
        self._lock = threading.Lock()
        self._loads: dict[str, _Load] = {}
        self._results = LoadResults()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prfaas-load")

    def start(self, item: ImportStart) -> None:
        plan = TransferPlan(self._layout, from_token=item.from_token, to_token=item.to_token)
        answer = self._client.open_import(
            OpenImport(item.transfer_id, item.from_token, item.to_token, plan.total_bytes)
        )
        load = _Load(item, answer)
        with self._lock:
            self._loads[item.request_id] = load
        answer.add_done_callback(lambda _: self._thread.submit(self._run, load, plan))

    def take_results(self, finished_request_ids: set[str]) -> LoadResults:
        """What ended since the last call. Loads of requests that vLLM has finished (aborted) are
        cancelled; their blocks stay pinned until they are reported here."""
        with self._lock:
            doomed = [self._loads[r] for r in finished_request_ids & self._loads.keys()]
            results, self._results = self._results, LoadResults()
        for load in doomed:
            load.cancelled = True
            load.answer.cancel()
        return results

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _run(self, load: _Load, plan: TransferPlan) -> None:
        error: str | None = None
        try:
            pieces = load.answer.result()
            self._copy(load, plan, pieces)
        except (PrfaasError, CancelledError) as failure:
            error = str(failure) or "cancelled"
        except Exception as failure:
            # vLLM must hear of this request, whatever happened: it waits for it.
            logger.exception("import %s", load.start.transfer_id)
            error = repr(failure)
        finally:
            self._client.close_import(load.start.transfer_id)
        self._report(load.start, error)

    def _report(self, item: ImportStart, error: str | None) -> None:
        if error is not None:
            logger.warning("import %s failed, recomputing: %s", item.transfer_id, error)
        with self._lock:
            del self._loads[item.request_id]
            self._results.finished.add(item.request_id)
            if error is not None:
                self._results.failed.add(item.request_id)

    def _copy(self, load: _Load, plan: TransferPlan, pieces: Pieces) -> None:
        source = _FlatSource(self._arena(), pieces, plan.total_bytes)
        for span in plan.spans.values():
            if load.cancelled:
                raise EngineError("the request was aborted")
            self._copy_layer(load.start, span, source)
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
            if table[block] == 0:
                continue  # vLLM will not read it: outside a sliding window
            if block < span.first_block:
                raise EngineError(f"{span.layer.name}: block {block} is not in the transfer")
            source.copy_to(
                pages[table[block]], span.offset_of(block), span.layer.page_bytes, self._copier
            )


class _FlatSource:
    """A transfer's bytes by flat offset, wherever they lie in the arena.

    Raises PeerError if ``pieces`` do not cover [0, total_bytes) exactly once, in order.
    """

    def __init__(self, arena: torch.Tensor, pieces: Pieces, total_bytes: int) -> None:
        self._arena, self._pieces = arena, pieces
        self._starts = [piece.flat_offset for piece in pieces]
        covered = 0
        for piece in pieces:
            in_arena = 0 <= piece.arena_offset <= arena.numel() - piece.length
            if piece.flat_offset != covered or piece.length <= 0 or not in_arena:
                raise PeerError(f"transfer is not covered at byte {covered}")
            covered += piece.length
        if covered != total_bytes:
            raise PeerError(f"transfer has {covered} bytes, {total_bytes} expected")

    def copy_to(
        self, page: torch.Tensor, flat_offset: int, length: int, copier: PageCopier
    ) -> None:
        at = bisect.bisect_right(self._starts, flat_offset) - 1
        done = 0
        while done < length:
            piece = self._pieces[at]
            skip = flat_offset + done - piece.flat_offset
            count = min(piece.length - skip, length - done)
            start = piece.arena_offset + skip
            copier.scatter(self._arena[start : start + count], page[done : done + count])
            done += count
            at += 1
