"""The engine socket's words as the pool's events, and its effects as words."""

from __future__ import annotations

from prfaas.core.errors import EngineError
from prfaas.core.handoff import MOST_REASON
from prfaas.engine_socket.messages import (
    AbortExport,
    AgentMessage,
    BeginExport,
    CloseImport,
    CloseLoad,
    DescribeTransfer,
    EngineMessage,
    ExportSlot,
    ExportStopped,
    FinishExport,
    ImportFailed,
    ImportReady,
    LeaseSlots,
    LoadedPart,
    LoadFailed,
    LoadReady,
    OpenImport,
    OpenLoad,
    ReturnSlots,
    SlotsLeased,
)
from prfaas.index.keyed_prefixes import KeyedPrefixes
from prfaas.pool.effects import (
    AnswerImport,
    AnswerLoad,
    FailImport,
    FailLoad,
    GrantSlots,
    StopExport,
)
from prfaas.pool.events import (
    AnyEvent,
    ExportAborted,
    ExportBegun,
    ExportFinished,
    ImportClosed,
    ImportOpened,
    LoadClosed,
    LoadOpened,
    SlotFilled,
    SlotsRequested,
    SlotsReturned,
    TransferDescribed,
)

ToEngine = GrantSlots | StopExport | AnswerImport | FailImport | AnswerLoad | FailLoad


def event_of(connection: int, message: EngineMessage, prefixes: KeyedPrefixes) -> AnyEvent:
    """What a registered connection has said. Raises EngineError for what it may not say then.
    Of prefixes only names and keys go on from here."""
    match message:
        case ExportSlot(transfer_id, slot, extents):
            return SlotFilled(connection, transfer_id, slot, extents)
        case LeaseSlots(count):
            return SlotsRequested(connection, count)
        case ReturnSlots(slots):
            return SlotsReturned(connection, slots)
        case BeginExport():
            return ExportBegun(
                connection,
                message.transfer_id,
                message.destination,
                message.from_token,
                message.to_token,
                message.total_bytes,
                message.deadline_s,
                message.prompt_digest,
                message.readers,
                message.priority,
                message.context,
            )
        case FinishExport(transfer_id):
            return ExportFinished(connection, transfer_id)
        case AbortExport(transfer_id, reason):
            return ExportAborted(connection, transfer_id, reason[:MOST_REASON])
        case OpenImport():
            return ImportOpened(
                connection,
                message.transfer_id,
                message.from_token,
                message.to_token,
                message.total_bytes,
                message.prompt_digest,
                message.part,
                message.layout_fingerprint,
            )
        case CloseImport(transfer_id, part):
            return ImportClosed(connection, transfer_id, part)
        case DescribeTransfer(transfer_id, prefix):
            return TransferDescribed(connection, transfer_id, prefixes.keyed(prefix))
        case OpenLoad():
            return LoadOpened(
                connection,
                message.load,
                message.local_tokens,
                message.to_token,
                message.block_tokens,
                tuple(map(prefixes.name, message.names)),
                message.layout_fingerprint,
            )
        case CloseLoad(load):
            return LoadClosed(connection, load)
    raise EngineError(f"unexpected {type(message).__name__}")


def message_of(effect: ToEngine) -> AgentMessage:
    """What the engine is to be told."""
    match effect:
        case GrantSlots(_, slots):
            return SlotsLeased(slots)
        case StopExport(_, transfer_id, reason):
            return ExportStopped(transfer_id, reason)
        case AnswerImport(_, transfer_id, extents, part):
            return ImportReady(transfer_id, extents, part)
        case FailImport(_, transfer_id, reason, part):
            return ImportFailed(transfer_id, reason, part)
        case AnswerLoad(_, load, parts):
            loaded = tuple(LoadedPart(p.from_token, p.to_token, p.extents) for p in parts)
            return LoadReady(load, loaded)
        case FailLoad(_, load, reason):
            return LoadFailed(load, reason)
