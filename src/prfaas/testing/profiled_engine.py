"""A vLLM server that takes the times of a profile, on the wall clock, and hands real bytes over.

Theory of operation. The engine model is the simulator's own (`prfaas.sim.engine`), driven by a
clock that follows the wall clock instead of jumping: first come first served prefill,
continuously batched decode, their time divided where both are asked for. What the simulator only
counts is done here: a prefill leases slots from a real agent and fills them while it "computes",
the recurrent state at its end; a decode waits until its agent has all bytes. Gateway, agents and
link cannot tell the difference, so a deployment of them is measured as it is.

The bytes are S_kv divided by ``byte_scale``, times are multiplied with ``slow``; who divides a
line's rate by both has the same system, smaller.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aiohttp import web

from prfaas.core.errors import PrfaasError
from prfaas.core.extents import Extent
from prfaas.core.handoff import ExportParams, ImportParams, parse_handoff
from prfaas.core.layout import KvGroup, KvLayout, LayerLayout
from prfaas.core.prompt_digest import prompt_digest
from prfaas.core.transfer_plan import TransferPlan
from prfaas.engine_socket.client import AgentClient
from prfaas.engine_socket.messages import BeginExport, OpenImport
from prfaas.models.kv_size import KvSize
from prfaas.models.profiles import InstanceProfile
from prfaas.sim.clock import PRIORITY_WORK
from prfaas.sim.engine import Engine, Task
from prfaas.testing.mock_agent import MockAgent
from prfaas.testing.mock_engine import MockEngine

_LEASE_S = 30.0
_WORD_PERIOD_S = 1.0
"""Between events of a stream: a gateway takes an engine that says nothing for dead."""
_EXPORTS_AT_ONCE = 4


class WallClock:
    """The simulator's clock in real time, on the running event loop. ``slow`` wall seconds are one
    of its own. What is due runs at its own time, however late the loop is: lateness adds up
    nowhere."""

    def __init__(self, slow: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._slow = slow
        self._began = self._loop.time()
        self._due: float | None = None

    @property
    def now(self) -> float:
        """Seconds since it began."""
        if self._due is not None:
            return self._due
        return (self._loop.time() - self._began) / self._slow

    def at(
        self,
        time: float,
        action: Callable[[Any], None],
        argument: Any,
        priority: int = PRIORITY_WORK,
    ) -> None:
        """Call ``action(argument)`` at ``time``."""
        self._loop.call_at(self._began + time * self._slow, self._run, time, action, argument)

    def _run(self, due: float, action: Callable[[Any], None], argument: Any) -> None:
        self._due = due
        try:
            action(argument)
        finally:
            self._due = None


def scaled_layout(kv: KvSize, *, byte_scale: float, block_tokens: int) -> KvLayout:
    """A layout whose hand-offs take S_kv / ``byte_scale``: one attention layer, one state last."""
    page, state = (
        round(kv.bytes_per_token * block_tokens / byte_scale),
        round(kv.bytes(0) / byte_scale),
    )
    groups = []
    for index, (kind, size) in enumerate((("full_attention", page), ("recurrent", state))):
        layer = LayerLayout(
            name=f"layer.{index}", index=index, page_bytes=size, dtype="uint8", shape=(size,)
        )
        groups.append(
            KvGroup(kind=kind, block_tokens=block_tokens, layers=(layer,))  # type: ignore[arg-type]
        )
    return KvLayout(model="profiled", groups=tuple(groups))


class _Job:
    """One HTTP request on the engine."""

    def __init__(
        self, prompt_tokens: int, export: ExportParams | None = None, prompt_digest: str = ""
    ) -> None:
        self.prompt_tokens = prompt_tokens
        self.export, self.prompt_digest = export, prompt_digest
        self.exported: asyncio.Future[str | None] | None = None
        self.begun, self.first, self.done = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.produced = threading.Event()


class ProfiledEngine(MockEngine):
    """One engine of a real agent at ``socket``; ``start`` and ``stop`` on a running event loop.

    Args:
        profile: how long prefills and decode steps take; without a decode table it never decodes.
        max_batch: sequences that decode at a time.
        slow: wall seconds for each second of the profile.
    """

    def __init__(
        self,
        name: str,
        socket: str,
        profile: InstanceProfile,
        layout: KvLayout,
        *,
        max_batch: int,
        slow: float = 1.0,
    ) -> None:
        super().__init__(name, MockAgent("none"), {})
        self._profile, self._layout, self._slow = profile, layout, slow
        self._max_batch = max_batch
        self.client = AgentClient(socket, engine=name, layout=layout)
        self._exports = ThreadPoolExecutor(_EXPORTS_AT_ONCE, thread_name_prefix=name)

    async def start(self) -> None:
        """Listen."""
        decode = self._profile.decode
        clock: Any = WallClock(self._slow)
        self._engine = Engine(
            self.name,
            clock,
            self,
            max_batch=self._max_batch,
            step_seconds=None if decode is None else decode.step_seconds,
        )
        await super().start()

    async def stop(self) -> None:
        """Give everything back."""
        await super().stop()
        self.client.close()
        self._exports.shutdown(wait=False, cancel_futures=True)

    # -- what the engine model says -------------------------------------------------------------

    def prefill_seconds(self, engine: Engine, task: Task) -> float:
        """A prefill starts: its export starts with it."""
        job = task.job
        assert isinstance(job, _Job)
        seconds = self._profile.prefill_or_refuse.seconds(job.prompt_tokens)
        if job.export is not None:
            job.exported = asyncio.get_running_loop().run_in_executor(
                self._exports, self._send, job, job.export, seconds * self._slow
            )
        job.begun.set()
        return seconds

    def prefill_done(self, engine: Engine, task: Task) -> None:
        """The state leaves now."""
        assert isinstance(task.job, _Job)
        task.job.produced.set()

    def first_token(self, engine: Engine, task: Task) -> None:
        """See `EngineListener`."""
        assert isinstance(task.job, _Job)
        task.job.first.set()

    def decode_done(self, engine: Engine, task: Task) -> None:
        """See `EngineListener`."""
        assert isinstance(task.job, _Job)
        task.job.done.set()

    # -- what the gateway asks ------------------------------------------------------------------

    async def _prefill(self, body: dict[str, Any], params: dict[str, Any]) -> web.Response:
        self.requests.clear()
        export = parse_handoff(params)
        assert isinstance(export, ExportParams)
        job = _Job(len(body["prompt"]), export, _digest(body, export))
        task = Task(job, 1, prefill=True, output=0, kv_tokens=0)
        self._engine.submit(task)
        try:
            await job.begun.wait()
            assert job.exported is not None
            reason = await asyncio.shield(job.exported)
        except asyncio.CancelledError:
            self._engine.cancel(task)
            job.produced.set()
            self.client.abort_export(export.transfer_id, "the request was cancelled")
            raise
        exported = {"prfaas": "exported", "transfer_id": export.transfer_id, "ok": reason is None}
        if reason is not None:
            exported["reason"] = reason
        return web.json_response({"kv_transfer_params": exported})

    def _send(self, job: _Job, export: ExportParams, seconds: float) -> str | None:
        """Hand a prompt's KV over while it is computed; returns why it was stopped, if it was."""
        produced = job.produced
        plan = TransferPlan(self._layout, from_token=export.from_token, to_token=export.to_token)
        *_, state = plan.spans.values()
        began, sent = time.monotonic(), 0
        try:
            self.client.begin_export(
                BeginExport(
                    transfer_id=export.transfer_id,
                    destination=export.destination,
                    from_token=export.from_token,
                    to_token=export.to_token,
                    total_bytes=plan.total_bytes,
                    deadline_s=export.deadline_s,
                    prompt_digest=job.prompt_digest,
                    readers=export.readers,
                    context=export.context,
                )
            )
            while sent < plan.total_bytes:
                slot = self.client.lease(_LEASE_S, transfer_id=export.transfer_id)
                end = min(sent + len(slot.view), plan.total_bytes)
                if sent < state.flat_offset < end:
                    end = state.flat_offset
                if end <= state.flat_offset:
                    due = began + seconds * end / state.flat_offset
                    produced.wait(due - time.monotonic())
                else:
                    produced.wait()
                extent = Extent(sent, slot.offset, end - sent)
                if not self.client.export_slot(export.transfer_id, slot, [extent]):
                    break
                sent = end
            produced.wait()
            return self.client.finish_export(export.transfer_id)
        except PrfaasError as error:
            produced.wait()
            self.client.abort_export(export.transfer_id, str(error))
            return str(error)

    async def _answer(
        self, request: web.Request, body: dict[str, Any], params: dict[str, Any]
    ) -> web.StreamResponse:
        self.requests.clear()
        handoff = parse_handoff(params)
        if isinstance(handoff, ImportParams):
            try:
                await self._load(handoff, _digest(body, handoff))
            except PrfaasError as error:
                return web.json_response({"error": {"message": str(error)}}, status=500)
        job, output = _Job(len(body["prompt"])), int(body["max_tokens"])
        task = Task(
            job, 1, prefill=handoff is None, output=output, kv_tokens=job.prompt_tokens + output
        )
        self._engine.submit(task)
        try:
            if not body.get("stream"):
                await job.done.wait()
                return web.json_response({"choices": [{"index": 0, "text": "whole"}]})
            await job.first.wait()
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            await response.write(_event("first"))
            while not job.done.is_set():
                try:
                    async with asyncio.timeout(_WORD_PERIOD_S):
                        await job.done.wait()
                except TimeoutError:
                    await response.write(_event(" more"))
            await response.write(_event(" last") + b"data: [DONE]\n\n")
        except BaseException:
            self._engine.cancel(task)
            raise
        return response

    async def _load(self, handoff: ImportParams, digest: str) -> None:
        plan = TransferPlan(self._layout, from_token=handoff.from_token, to_token=handoff.to_token)
        request = OpenImport(
            handoff.transfer_id, handoff.from_token, handoff.to_token, plan.total_bytes, digest
        )
        opened = self.client.open_import(request)
        try:
            await asyncio.wrap_future(opened.future)
        finally:
            self.client.close_import(opened)


def _digest(body: dict[str, Any], handoff: ExportParams | ImportParams) -> str:
    """What a hand-off of this request's prompt is bound to."""
    salt = body.get("cache_salt")
    return prompt_digest(body["prompt"], to_token=handoff.to_token, salt=salt)


def _event(text: str) -> bytes:
    return f"data: {json.dumps({'choices': [{'index': 0, 'text': text}]})}\n\n".encode()
