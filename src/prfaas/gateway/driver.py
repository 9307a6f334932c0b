"""Drives the scheduler in real time: events in, commands carried out, one by one, in order.

The scheduler decides everything; this module only knows how each command is done and which event
tells its outcome. Commands start tasks and return at once, so `handle` never waits and is never
entered from within itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from prfaas.core.errors import EngineError, LinkError
from prfaas.gateway.agent_client import AgentClient
from prfaas.gateway.answers import relay
from prfaas.gateway.api_errors import ServiceUnavailable, failed_request
from prfaas.gateway.client_response import ClientGone
from prfaas.gateway.endpoints import Endpoints
from prfaas.gateway.engine_client import EngineClient
from prfaas.gateway.exchange import Exchange
from prfaas.gateway.faults import fault_of
from prfaas.gateway.handoffs import (
    decode_params,
    drop_transfer,
    export_params,
    loaded,
    note_hidden_bytes,
    watch_transfer,
)
from prfaas.gateway.journal_file import JournalFile
from prfaas.gateway.layouts import Layouts
from prfaas.gateway.upstream_errors import EngineFull, LocalFault
from prfaas.scheduler.commands import (
    AnyCommand,
    CancelDecode,
    CancelPrefill,
    CancelTransfer,
    ChangeRole,
    FailRequest,
    ReportDrained,
    SetTimer,
    StartDecode,
    StartPrefill,
)
from prfaas.scheduler.events import (
    AnyEvent,
    DecodeFailed,
    Fault,
    FirstToken,
    PrefillCompleted,
    PrefillFailed,
    RequestArrived,
    RequestCancelled,
    RequestCompleted,
    TimerFired,
    TransferCompleted,
    TransferFailed,
    TransferProgressed,
)
from prfaas.scheduler.scheduler import Scheduler

logger = logging.getLogger(__name__)

_LAST_DROPS_S = 1.0
"""What an agent that does not answer may cost the end of a gateway."""


class Driver:
    """Carries out one scheduler's commands.

    Args:
        layouts: how engines hold their KV cache.
        suspect: called with an engine's name when a request could not reach it.
        poll_s: how often a transfer's progress is asked for.
        journal: gets every event and command.
        on_drained: told which engine has nothing left to do.
        on_arrival: told of every request that the scheduler is told of.
        on_role: told of every change of an engine's role, and of those of a dry run.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        endpoints: Endpoints,
        engines: Mapping[str, EngineClient],
        agents: Mapping[str, AgentClient],
        *,
        layouts: Layouts,
        suspect: Callable[[str], None],
        poll_s: float,
        journal: JournalFile,
        on_drained: Callable[[str], None],
        on_role: Callable[[ChangeRole], None] = lambda command: None,
        on_arrival: Callable[[RequestArrived], None] = lambda event: None,
    ) -> None:
        self.on_waiting: Callable[[], None] = lambda: None
        """Called after every event, while requests wait."""
        self._on_drained = on_drained
        self._journal = journal
        self._on_role, self._on_arrival = on_role, on_arrival
        self.scheduler = scheduler
        """To read only: events come from here alone."""
        self._endpoints = endpoints
        self._engines = engines
        self._agents = agents
        self._layouts = layouts
        self._suspect = suspect
        self._poll_s = poll_s
        self._exchanges: dict[str, Exchange] = {}
        self._alarm: asyncio.TimerHandle | None = None
        self._background: set[asyncio.Task[None]] = set()

    def handle(self, event: AnyEvent) -> None:
        """Tell the scheduler and do what it says."""
        now = time.monotonic()
        commands: Sequence[AnyCommand] = ()
        try:
            commands = self.scheduler.handle(event, now=now)
        finally:  # An event that breaks the scheduler is the one to know.
            self._journal.write(now, event, *commands)
        for command in commands:
            self._execute(command)
        if self.scheduler.waiting_tokens:
            self.on_waiting()

    async def answer(self, exchange: Exchange, arrival: RequestArrived) -> None:
        """See one request through; returns or is cancelled (client gone) when it is over."""
        self._exchanges[exchange.key] = exchange
        self._on_arrival(arrival)
        try:
            self.handle(arrival)
            await asyncio.wait([exchange.response.done])
        finally:
            if self.scheduler.state(exchange.key) is not None:
                self.handle(RequestCancelled(exchange.key))
            del self._exchanges[exchange.key]
            exchange.attempts.stop_all()
            for transfer_id in list(exchange.transfers):
                self._drop(exchange, transfer_id)

    async def close(self) -> None:
        """Stop the alarm and wait a little for drops under way."""
        if self._alarm is not None:
            self._alarm.cancel()
        if self._background:
            _, left = await asyncio.wait(self._background, timeout=_LAST_DROPS_S)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    # -- commands -------------------------------------------------------------------------------

    def _execute(self, command: AnyCommand) -> None:
        if isinstance(command, SetTimer):
            self._set_alarm(command.at)
            return
        if isinstance(command, ChangeRole):
            does = "would now work" if command.dry_run else "now works"
            logger.info("%s %s as %s: %s", command.engine, does, command.role, command.reason)
            self._on_role(command)
            return
        if isinstance(command, ReportDrained):
            self._on_drained(command.engine)
            return
        exchange = self._exchanges.get(command.request_id)
        if exchange is None:
            return
        if isinstance(command, StartPrefill):
            self._start_prefill(exchange, command)
        elif isinstance(command, StartDecode):
            self._start_decode(exchange, command)
        elif isinstance(command, CancelPrefill):
            exchange.attempts.stop("prefill", command.attempt)
        elif isinstance(command, CancelTransfer):
            exchange.attempts.stop("transfer", command.attempt)
            # It may still ask for the share that was hidden: the next attempt has its own.
            exchange.attempts.stop("prefill", command.attempt)
            self._drop(exchange, command.transfer_id)
        elif isinstance(command, CancelDecode):
            exchange.attempts.stop("decode", command.attempt)
        elif isinstance(command, FailRequest):
            exchange.fail(failed_request(command))

    def _set_alarm(self, at: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        loop = asyncio.get_running_loop()
        delay = max(0.0, at - time.monotonic())
        self._alarm = loop.call_later(delay, self.handle, TimerFired())

    def _start_prefill(self, exchange: Exchange, command: StartPrefill) -> None:
        self._note_attempt(exchange, command, command.decode_engine)
        exchange.transfers[command.transfer_id] = (command.engine, command.decode_engine)
        exchange.attempts.start("prefill", command.attempt, self._prefill(exchange, command))
        exchange.attempts.start("transfer", command.attempt, self._transfer(exchange, command))

    def _start_decode(self, exchange: Exchange, command: StartDecode) -> None:
        self._note_attempt(exchange, command, command.engine)
        exchange.attempts.start("decode", command.attempt, self._decode(exchange, command))

    async def _prefill(self, exchange: Exchange, command: StartPrefill) -> None:
        key, attempt = command.request_id, command.attempt
        assert exchange.prompt.token_ids is not None
        ids = exchange.prompt.token_ids.json(command.to_token if command.exact else None)
        params = export_params(
            command,
            self._endpoints.engines,
            self.scheduler.view.engines,
            time_left_s=exchange.time_left_s(),
            pool_tokens=await exchange.loadable(command.engine),
            context=exchange.context(attempt),
        )
        body = exchange.body.for_prefill(ids, params)
        try:
            cached = await self._engines[command.engine].prefill(body, exchange.engine_headers)
        except LocalFault as error:
            exchange.fail(ServiceUnavailable(str(error)))
            return
        except EngineError as error:
            self._suspect(command.engine)
            fault = await fault_of(error, self._engines[command.engine])
            self.handle(PrefillFailed(key, attempt, str(error), fault))
            return
        exchange.facts.note_prefill(cached, exchange.elapsed_s())
        self.handle(PrefillCompleted(key, attempt))
        sender = self._agent_of(command.engine)
        ranks = self._layouts.parts(command.engine)
        await note_hidden_bytes(exchange.facts, sender, command.transfer_id, ranks=ranks)

    async def _transfer(self, exchange: Exchange, command: StartPrefill) -> None:
        key, attempt = command.request_id, command.attempt
        receiver = self._agent_of(command.decode_engine)
        try:
            status = await watch_transfer(
                receiver,
                command.transfer_id,
                ranks=self._layouts.parts(command.engine),
                poll_s=self._poll_s,
                on_progress=lambda share: self.handle(TransferProgressed(key, attempt, share)),
            )
        except LocalFault as error:
            exchange.fail(ServiceUnavailable(str(error)))
            return
        except LinkError as error:
            self.handle(TransferFailed(key, attempt, str(error)))
            return
        exchange.facts.note_transfer(status, exchange.elapsed_s())
        self.handle(TransferCompleted(key, attempt))
        if exchange.body.choices == 1 and not exchange.body.stream:
            parts = self._layouts.parts_and_readers(command.engine, command.decode_engine)
            if await loaded(receiver, command.transfer_id, parts, poll_s=self._poll_s):
                self._drop(exchange, command.transfer_id)

    async def _decode(self, exchange: Exchange, command: StartDecode) -> None:
        key, attempt = command.request_id, command.attempt
        sender, _ = exchange.transfers.get(command.transfer_id or "", (None, None))
        source = self._layouts.source(sender, command.engine)
        loadable = await exchange.loadable(command.engine)
        cached, ids = exchange.facts.prefill_cached_tokens, exchange.prompt.token_ids
        context, keep = exchange.context(attempt), exchange.body.keeps
        params = decode_params(command, source, loadable, cached, context=context, keep=keep)
        body = exchange.body.for_decode(None if ids is None else ids.json(), params)
        try:
            output_tokens = await relay(
                self._engines[command.engine],
                exchange.body.endpoint,
                body,
                exchange.engine_headers,
                exchange.response,
                on_first_token=lambda: self._first_token(exchange, command),
                whose=exchange.use.tenant.name,
                most_tokens=exchange.longest_answers,
            )
        except LocalFault as error:
            exchange.fail(ServiceUnavailable(str(error)))
        except EngineFull as error:
            self.handle(DecodeFailed(key, attempt, str(error), Fault.FULL, error.retry_after_s))
        except EngineError as error:
            self._suspect(command.engine)
            fault = await fault_of(error, self._engines[command.engine])
            self.handle(DecodeFailed(key, attempt, str(error), fault))
        except ClientGone:
            self.handle(RequestCancelled(key))
            exchange.response.hang_up()
        else:
            exchange.facts.note_end(output_tokens, exchange.elapsed_s())
            self.handle(RequestCompleted(key, attempt, output_tokens))

    def _first_token(self, exchange: Exchange, command: StartDecode) -> None:
        exchange.facts.note_answer(command, exchange.elapsed_s())
        self.handle(FirstToken(exchange.key, command.attempt))
        if exchange.body.choices == 1:
            for transfer_id in list(exchange.transfers):
                self._drop(exchange, transfer_id)

    # -- transfers ------------------------------------------------------------------------------

    def _note_attempt(
        self, exchange: Exchange, command: StartPrefill | StartDecode, decode_engine: str
    ) -> None:
        cluster = self.scheduler.view.cluster(self._endpoints.engines[decode_engine].cluster)
        neighbours = [engine.name for engine in cluster.engines if engine.up]
        exchange.facts.note_attempt(command, neighbours, exchange.elapsed_s())

    def _agent_of(self, engine: str) -> AgentClient:
        return self._agents[self._endpoints.engines[engine].agent]

    def _drop(self, exchange: Exchange, transfer_id: str) -> None:
        """Have both agents forget a transfer, in the background."""
        ends = exchange.transfers.pop(transfer_id, None)
        for agent in {self._agent_of(engine) for engine in ends or ()}:
            task = asyncio.ensure_future(drop_transfer(agent, transfer_id))
            self._background.add(task)
            task.add_done_callback(self._background.discard)
