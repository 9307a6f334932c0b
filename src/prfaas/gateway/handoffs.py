"""Following one KV transfer from outside: what the prefill engine is told, what the agents say."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from prfaas.core.errors import LinkError
from prfaas.core.handoff import (
    LONGEST_DEADLINE_S,
    MOST_READERS,
    ExportParams,
    ImportParams,
    LoadParams,
    RequestContext,
)
from prfaas.gateway.agent_client import AgentClient, AgentLate, TransferStatus
from prfaas.gateway.endpoints import EngineEndpoint
from prfaas.gateway.facts import RequestFacts
from prfaas.gateway.upstream_errors import LocalFault
from prfaas.policies.views import EngineView
from prfaas.scheduler.commands import StartDecode, StartPrefill

logger = logging.getLogger(__name__)

_LATE_TRIES = 3
"""A busy machine's agent may answer late a few times in a row: nothing is lost by that."""
_POLL_PAUSE_S = 0.05
"""An agent answers when it is over, or as late as it may. One that does not is asked no faster."""
_SENDER_PAUSE_S = 0.02
_SENDER_TRIES = 25
"""A prefill engine may answer a little before its agent has taken the end of the export in."""
_DROP_PAUSES_S = (0.1, 0.5, 2.0, 5.0, 10.0, 20.0, 40.0)
"""Between tries to have an agent forget a transfer: an agent that is restarted has forgotten it by
itself, and the transfer's own deadline ends it where nobody can be reached."""


def export_params(
    command: StartPrefill,
    engines: Mapping[str, EngineEndpoint],
    view: Mapping[str, EngineView],
    *,
    time_left_s: float,
    pool_tokens: int = 0,
    context: RequestContext | None = None,
) -> ExportParams:
    """What the prefill engine's connector must know. A transfer lies on one machine, and any engine
    there that decodes may have a slot first: each of them may read it."""
    destination = engines[command.decode_engine].agent
    beside = [e.name for e in engines.values() if e.agent == destination]
    readers = {command.decode_engine: None} | {
        name: None for name in beside if view[name].role == "decode"
    }
    return ExportParams(
        transfer_id=command.transfer_id,
        destination=destination,
        readers=tuple(readers)[:MOST_READERS],
        from_token=command.from_token,
        to_token=command.to_token,
        deadline_s=min(max(time_left_s, 1.0), LONGEST_DEADLINE_S),
        pool_tokens=pool_tokens,
        context=context,
    )


def decode_params(
    command: StartDecode,
    source: str | None,
    pool_tokens: int,
    cached_tokens: int | None,
    *,
    context: RequestContext | None = None,
    keep: bool = False,
) -> ImportParams | LoadParams | None:
    """What the decode engine's connector must know: what is handed over, and what its agent has
    cached of the prompt. ``source``: the sender's layout, where it is another; ``cached_tokens``:
    what the prefill engine did not have to compute; ``keep``: what it computes itself is to be
    cached by its agent."""
    if command.transfer_id is not None:
        return ImportParams(
            transfer_id=command.transfer_id,
            source=source,
            from_token=command.from_token,
            to_token=command.to_token,
            pool_tokens=pool_tokens,
            context=context,
            do_remote_prefill=None if cached_tokens is None else True,
            remote_prefill_cached_tokens=cached_tokens,
        )
    found = LoadParams(pool_tokens=pool_tokens, context=context, keep=keep)
    return found if pool_tokens or keep else None


async def watch_transfer(
    receiver: AgentClient,
    transfer_id: str,
    *,
    ranks: int,
    poll_s: float,
    on_progress: Callable[[float | None], None],
) -> TransferStatus:
    """Wait until the receiving agent holds every byte; ``on_progress`` is told the share that has
    arrived whenever it has grown. Raises LinkError if it never will."""
    stored = late = 0
    while True:
        asked_at = time.monotonic()
        try:
            status = await receiver.transfer(transfer_id, wait_s=poll_s, ranks=ranks)
        except AgentLate:
            late += 1
            if late == _LATE_TRIES:
                raise
            continue
        late = 0
        if status.state == "complete":
            return status
        if status.state == "failed":
            raise LinkError(f"transfer failed: {status.reason or 'no reason given'}")
        if (status.bytes_stored or 0) > stored:
            stored = status.bytes_stored or 0
            on_progress(stored / status.bytes_total if status.bytes_total else None)
        await _pause(asked_at, poll_s)


async def loaded(
    receiver: AgentClient, transfer_id: str, parts: tuple[int, int], *, poll_s: float
) -> bool:
    """Wait until the decode engine has loaded a transfer that is complete; False where that will
    not be known. An answer that is not streamed shows its first token when it is over: what was
    handed over for it is needed for much less long. ``parts``: how many, and how many ranks read
    each."""
    ranks, reads = parts
    while True:
        asked_at = time.monotonic()
        try:
            status = await receiver.transfer(transfer_id, wait_s=poll_s, ranks=ranks, reads=reads)
        except AgentLate:
            continue
        except (LinkError, LocalFault):
            return False
        if status.state != "complete" or status.reads is None:
            return False
        if status.reads >= reads:
            return True
        await _pause(asked_at, poll_s)


async def _pause(asked_at: float, poll_s: float) -> None:
    """Where the answer came early."""
    if time.monotonic() - asked_at < poll_s / 2:
        await asyncio.sleep(_POLL_PAUSE_S)


async def note_hidden_bytes(
    facts: RequestFacts, sender: AgentClient, transfer_id: str, *, ranks: int
) -> None:
    """Ask the sending agent how much had been stored when prefill ended; no answer, no figure."""
    for _ in range(_SENDER_TRIES):
        try:
            status = await sender.transfer(transfer_id, wait_s=0.0, ranks=ranks)
        except (LinkError, LocalFault):
            return
        if status.sent is not None and status.sent.bytes_acknowledged_at_export_end is not None:
            facts.kv_bytes_hidden = status.sent.bytes_acknowledged_at_export_end
            return
        await asyncio.sleep(_SENDER_PAUSE_S)


async def drop_transfer(agent: AgentClient, transfer_id: str) -> None:
    """Have an agent forget a transfer; again where that fails, for a while."""
    for pause_s in (*_DROP_PAUSES_S, None):
        try:
            await agent.drop(transfer_id)
            return
        except (LinkError, LocalFault) as error:
            logger.debug("transfer %s not dropped: %s", transfer_id, error)
        if pause_s is not None:
            await asyncio.sleep(pause_s)
