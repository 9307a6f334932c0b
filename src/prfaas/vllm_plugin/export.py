"""Worker side of an export: pages leave the cache for arena slots as soon as they are final.

Full-attention and sliding-window pages leave in the step that completes their block: from the
layer's own hook, or, if the layer calls none, when the step ends. (vLLM calls the hook from its
common attention layers only; some models bring their own, and a full CUDA graph calls none.)
Recurrent layers have no hook: in a step that makes a state that is handed over, it leaves from the
hook of the next attention layer above, the rest when the step ends. A slot is handed to the agent
when it is full or the step is over, so bytes travel while prefill computes.

A layer leaves once in a step, at its first hook. Only a draft model's layers run more than once in
one: first over the step's tokens, then behind them, in blocks that do not leave yet.

A slot shortage blocks here: back-pressure from a slow line reaches the producer. It is bounded by
the transfer's deadline, after which the export is given up and prefill goes on.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from math import inf

import torch

from prfaas.core.errors import CapacityError, EngineError, PrfaasError
from prfaas.core.extents import Extent
from prfaas.core.layout import KvLayout
from prfaas.core.transfer_plan import LayerSpan, TransferPlan
from prfaas.engine_socket.client import AgentClient
from prfaas.engine_socket.lent import Slot
from prfaas.engine_socket.messages import BeginExport
from prfaas.engine_socket.session import Session
from prfaas.vllm_plugin.metadata import THIS_AGENT, ExportStep
from prfaas.vllm_plugin.pages import PageCopier, Pages, address_of
from prfaas.vllm_plugin.spans import NOTHING_TOLD, Told

_WORTH_A_LAUNCH = 16 * 1024 * 1024
"""Less waits for the next layer, or the step's end: a launch costs the model's thread some 40 us,
and the line needs 13 ms at 10 Gbit/s for as much."""


_PATIENCE_S = 0.1
"""An answer has been given when it leaves for the cache; others' next tokens wait meanwhile. So
long it waits for slots in all; what copying takes is not counted."""


class _OpenSlot:
    """A leased slot being filled; ``extents`` say with what."""

    def __init__(self, slot: Slot, arena_address: int) -> None:
        self.slot = slot
        self.address = arena_address + slot.offset
        self.size = len(slot.view)
        self.filled = 0
        self.extents: list[Extent] = []

    @property
    def free(self) -> int:
        return self.size - self.filled

    def take(self, flat_offset: int, length: int) -> int:
        """The address of the next ``length`` bytes, noted as an extent."""
        start = self.filled
        self.filled += length
        self.extents.append(Extent(flat_offset, self.slot.offset + start, length))
        return self.address + start


@dataclass
class _Outgoing:
    begun_by: ExportStep
    plan: TransferPlan
    deadline: float
    began_at: float
    """In Unix seconds."""
    slot: _OpenSlot | None = None
    patience: float = inf
    """Seconds that the model's thread may still wait for slots, besides the deadline."""
    left: set[str] = field(default_factory=set)
    """Layers whose pages have left in this step."""
    stopped: bool = False

    @property
    def transfer_id(self) -> str:
        return self.begun_by.params.transfer_id


class Exporter:
    """All exports of one rank. Every method runs on the worker's main thread."""

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
        self._pages = {name: Pages.of(view) for name, view in pages.items()}
        self._open: dict[str, _Outgoing] = {}
        self._failed: dict[str, str] = {}
        self._session: Session | None = None
        self._arena_address = 0
        """Of the session of the slot leased last."""

    def layer_computed(self, step: ExportStep, layer_name: str) -> None:
        """The layer's pages up to ``step.end_token`` are in the cache."""
        transfer = self._begun(step)
        if transfer is None:
            return
        span = transfer.plan.spans.get(layer_name)
        if span is None:
            return  # it shares another layer's cache, or another rank sends its pages
        try:
            self._layer_out(transfer, step, span)
            if step.states_at:
                for lower in transfer.plan.spans.values():
                    if self._is_state(lower) and lower.layer.index < span.layer.index:
                        self._layer_out(transfer, step, lower)
        except PrfaasError as error:
            self._stop(transfer, str(error))
        self._copier.submit(at_least_bytes=_WORTH_A_LAUNCH)

    def step_ended(self, steps: list[ExportStep]) -> None:
        """Hand over what the hooks left: other layers' pages, and slots that are not full."""
        for step in steps:
            transfer = self._begun(step)
            if transfer is not None:
                try:
                    self._end_step(transfer, step)
                except PrfaasError as error:
                    self._stop(transfer, str(error))
            if step.final:
                del self._open[step.params.transfer_id]
        self._copier.submit()

    def _end_step(self, transfer: _Outgoing, step: ExportStep) -> None:
        for span in transfer.plan.spans.values():
            self._layer_out(transfer, step, span)
        transfer.left.clear()
        self._flush(transfer)
        if step.final:
            self._copier.when_gathered(lambda: self._finish(transfer))

    def _finish(self, transfer: _Outgoing) -> None:
        self._client.finish_export(transfer.transfer_id)
        self._told.exported(transfer.begun_by, transfer.began_at)

    def take_failures(self) -> dict[str, str]:
        """Request id to reason, of exports given up since the last call."""
        failed, self._failed = self._failed, {}
        return failed

    def abort(self, transfer_id: str, reason: str) -> None:
        """The scheduler side says the boundary will not be reached."""
        transfer = self._open.pop(transfer_id, None)
        if transfer is not None and not transfer.stopped:
            self._stop(transfer, reason)
            self._copier.submit()

    def _begun(self, step: ExportStep) -> _Outgoing | None:
        """The step's transfer, announced at its first step; None once it has been given up."""
        transfer = self._open.get(step.params.transfer_id)
        if transfer is None:
            transfer = self._begin(step)
        if not transfer.stopped:
            reason = self._client.stopped(transfer.transfer_id)
            if reason is not None:
                self._stop(transfer, reason)
        return None if transfer.stopped else transfer

    def _begin(self, step: ExportStep) -> _Outgoing:
        params = step.params
        plan = TransferPlan(self._layout, from_token=params.from_token, to_token=params.to_token)
        deadline = time.monotonic() + params.deadline_s
        transfer = _Outgoing(step, plan, deadline, time.time())
        if params.destination == THIS_AGENT:
            transfer.patience = _PATIENCE_S
        self._open[params.transfer_id] = transfer
        if not plan.spans:
            transfer.stopped = True  # the engine's other ranks send all that this one holds
            return transfer
        try:
            self._client.begin_export(
                BeginExport(
                    transfer_id=params.transfer_id,
                    destination=params.destination,
                    from_token=params.from_token,
                    to_token=params.to_token,
                    total_bytes=plan.total_bytes,
                    deadline_s=params.deadline_s,
                    prompt_digest=step.prompt_digest,
                    readers=params.readers,
                    priority=params.priority,
                    context=params.context,
                )
            )
            if step.prefix is not None:
                self._client.describe(params.transfer_id, step.prefix)
        except (PrfaasError, ValueError) as error:
            self._stop(transfer, str(error))
        return transfer

    def _is_state(self, span: LayerSpan) -> bool:
        return self._layout.groups[span.group].kind == "recurrent"

    def _layer_out(self, transfer: _Outgoing, step: ExportStep, span: LayerSpan) -> None:
        """What the step made final of one layer, unless it has left already."""
        if span.layer.name in transfer.left:
            return
        transfer.left.add(span.layer.name)
        block_tokens = self._layout.groups[span.group].block_tokens
        if self._is_state(span):
            for tokens in step.states_at:
                block = -(-tokens // block_tokens) - 1
                self._pages_out(transfer, step, span, block, block + 1)
            return
        first = max(span.first_block, step.first_token // block_tokens)
        # The last block of an exact hand-off leaves as far as it is filled.
        end = span.end_block if step.final else step.end_token // block_tokens
        self._pages_out(transfer, step, span, first, end)

    def _pages_out(
        self, transfer: _Outgoing, step: ExportStep, span: LayerSpan, first: int, end: int
    ) -> None:
        """Pages of blocks [first, end) of one layer, cut to fit slots."""
        table = step.tables[span.group]
        pages = self._pages[span.layer.name]
        page_bytes = span.layer.page_bytes
        if not span.whole_pages:
            for block in range(first, end):
                address = pages.at([_real(table[block])])[0]
                self._runs_out(transfer, span.offset_of(block), address, span.runs)
            return
        block = first
        while block < end:
            slot = self._slot_with_room(transfer, page_bytes)
            count = min(end - block, slot.free // page_bytes)
            if count == 0:
                address = pages.at([_real(table[block])])[0]
                self._runs_out(transfer, span.offset_of(block), address, span.runs)
                block += 1
                continue
            ids = [_real(block_id) for block_id in table[block : block + count]]
            target = slot.take(span.offset_of(block), count * page_bytes)
            self._copier.gather(pages.at(ids), target, page_bytes)
            block += count

    def _runs_out(
        self,
        transfer: _Outgoing,
        flat_offset: int,
        address: int,
        runs: tuple[tuple[int, int], ...],
    ) -> None:
        """Parts [start, end) of one page, one after the other: of a page that is larger than a
        slot, or of which another rank sends the rest."""
        for start, end in runs:
            while start < end:
                slot = self._slot_with_room(transfer, 1)
                length = min(slot.free, end - start)
                target = slot.take(flat_offset, length)
                self._copier.gather([address + start], target, length)
                start += length
                flat_offset += length

    def _slot_with_room(self, transfer: _Outgoing, length: int) -> _OpenSlot:
        """The open slot if it has ``length`` bytes left, else a fresh one (however small)."""
        if transfer.slot is not None and transfer.slot.free < length:
            self._flush(transfer)
        if transfer.slot is None:
            slot = self._lease(transfer)
            if slot.session is not self._session:
                self._session, self._arena_address = slot.session, address_of(slot.session.arena)
            transfer.slot = _OpenSlot(slot, self._arena_address)
        return transfer.slot

    def _lease(self, transfer: _Outgoing) -> Slot:
        try:
            return self._client.lease(0.0, transfer_id=transfer.transfer_id)
        except CapacityError:
            self._copier.submit()  # slots come free when what fills the others has been copied
        began = time.monotonic()
        left_s = max(0.0, min(transfer.deadline - began, transfer.patience))
        slot = self._client.lease(left_s, transfer_id=transfer.transfer_id)
        transfer.patience -= time.monotonic() - began
        return slot

    def _flush(self, transfer: _Outgoing) -> None:
        filled, transfer.slot = transfer.slot, None
        if filled is not None:
            self._copier.when_gathered(
                lambda: self._client.export_slot(transfer.transfer_id, filled.slot, filled.extents)
            )

    def _stop(self, transfer: _Outgoing, reason: str) -> None:
        """Export no more of it; the prefill itself goes on."""
        self._told.exported(transfer.begun_by, transfer.began_at, reason)
        transfer.stopped = True
        self._failed[transfer.begun_by.request_id] = reason
        unsent, transfer.slot = transfer.slot, None
        if unsent is not None:
            self._copier.when_gathered(lambda: self._client.return_slot(unsent.slot))
        self._copier.when_gathered(lambda: self._client.abort_export(transfer.transfer_id, reason))


def _real(block_id: int) -> int:
    if block_id == 0:
        raise EngineError("a block of the hand-off was freed before it was exported")
    return block_id
