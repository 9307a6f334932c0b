"""The words an engine rank and its agent exchange over a Unix stream socket.

Framing: a 4-byte little-endian length (at most `MAX_FRAME_BYTES`), then one msgpack map with its
type in ``"type"``. KV bytes never pass here: they lie in the agent's shared-memory arena, cut in
fixed-size slots. A slot belongs to the agent, or is leased to one connection for filling. Every
lease ends with the connection.

Exporting rank:  LeaseSlots -> SlotsLeased; BeginExport; fill leased slots; ExportSlot (the slot
                 goes back to the agent) ...; FinishExport or AbortExport. The agent may answer
                 ExportStopped at any time: stop exporting, return what is leased with ReturnSlots.
Importing rank:  OpenImport -> ImportReady (extents stay readable until CloseImport) or
                 ImportFailed. What is opened is one part of a transfer, that of one of the
                 sender's ranks; a rank opens as many as hold something for it. A part may be
                 opened by several requests (``n`` > 1). Each OpenImport gets exactly one answer,
                 in order per part, also when CloseImport overtakes it: a late answer is never
                 taken for a newer one.

An agent that drops a connection only closes its own sending half; leases and open imports end
when the engine closes its half (or dies), so no engine ever touches memory lent to another.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from prfaas.core.extents import Extent
from prfaas.core.handoff import (
    Agent,
    Bytes,
    Fingerprint,
    Priority,
    Rank,
    Readers,
    RequestContext,
    Tokens,
    TransferId,
)
from prfaas.core.layout import KvLayout
from prfaas.core.prefixes import PromptPrefix
from prfaas.core.prompt_digest import PromptDigest

MAX_FRAME_BYTES = 4 * 1024 * 1024
MOST_PARTS = 1 << 14
"""Slots, or extents, that one message names: layers are some hundreds."""
PROTOCOL_VERSION = 4
"""4: exports and imports carry the prompt's digest, exports their readers; transfers are described,
and cached prefixes loaded.
3: imports name the part of a transfer and the layout it was sent in."""


class Message(msgspec.Struct, frozen=True, tag=True, tag_field="type", forbid_unknown_fields=True):
    """Base of every message."""


# engine -> agent


class RegisterEngine(Message, frozen=True):
    """First message of a connection. ``engine`` is its name in the deployment."""

    engine: Annotated[str, msgspec.Meta(max_length=128)]
    layout: KvLayout
    pid: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
    version: int = PROTOCOL_VERSION


class LeaseSlots(Message, frozen=True):
    """Ask for up to ``count`` free slots; answered once at least one is free."""

    count: int


class ReturnSlots(Message, frozen=True):
    """Leased slots that will not be filled."""

    slots: Annotated[tuple[int, ...], msgspec.Meta(max_length=MOST_PARTS)]


class BeginExport(Message, frozen=True, omit_defaults=True):
    """This rank will export ``total_bytes`` as transfer ``transfer_id``.

    ``destination`` is the agent that receives (may be the agent itself, also by the empty name: a
    local hand-off; without ``readers`` it is cached at once).
    ``deadline_s`` is the time left, in seconds, for the whole transfer. Only the engines
    ``readers`` may open it, for a prompt of the same ``prompt_digest``.
    """

    transfer_id: TransferId
    destination: Agent
    from_token: Tokens
    to_token: Tokens
    total_bytes: Bytes
    deadline_s: float
    prompt_digest: PromptDigest
    readers: Readers
    priority: Priority = 0
    context: RequestContext | None = None


class ExportSlot(Message, frozen=True):
    """A filled slot; its extents lie in it and may cover any flat ranges of the transfer."""

    transfer_id: TransferId
    slot: int
    extents: Annotated[tuple[Extent, ...], msgspec.Meta(max_length=MOST_PARTS)]


class FinishExport(Message, frozen=True):
    """Every byte of the transfer has been handed over."""

    transfer_id: TransferId


class AbortExport(Message, frozen=True):
    """The transfer will not be completed (request aborted, boundary missed, ...)."""

    transfer_id: TransferId
    reason: str


class OpenImport(Message, frozen=True):
    """Read what the sender's rank ``part`` sends as ``transfer_id``; answered when all of it is
    here or it has failed. ``prompt_digest`` is that of the request to be answered, as this engine
    computed it. ``layout_fingerprint`` is that of the sender's rank, as whose bytes this
    rank reads them; None: its own."""

    transfer_id: TransferId
    from_token: Tokens
    to_token: Tokens
    total_bytes: Bytes
    prompt_digest: PromptDigest
    part: Rank = 0
    layout_fingerprint: Fingerprint | None = None


class CloseImport(Message, frozen=True):
    """The rank has copied the bytes (or given up waiting for them)."""

    transfer_id: TransferId
    part: Rank = 0


class DescribeTransfer(Message, frozen=True):
    """What the transfer is of that this rank exports (said before its first slot) or has read (said
    before `CloseImport`): worth keeping as a cached prefix when it is over."""

    transfer_id: TransferId
    prefix: PromptPrefix


class OpenLoad(Message, frozen=True):
    """Read a cached prefix of ``to_token`` tokens, of which this rank has the first
    ``local_tokens``. ``names``: of the prefix after each block of ``block_tokens``, as this engine
    computed them from its request (`core.prefixes`). ``load``: a number not used before on this
    connection. ``layout_fingerprint``: of the rank as whose pages it reads them; None: its own."""

    load: int
    local_tokens: int
    to_token: int
    block_tokens: int
    names: tuple[bytes, ...]
    layout_fingerprint: Fingerprint | None = None


class CloseLoad(Message, frozen=True):
    """The rank has copied the bytes."""

    load: int


# agent -> engine


class Registered(Message, frozen=True):
    """The connection is accepted. The arena's file descriptor comes with this message's first
    byte (SCM_RIGHTS): map ``slot_count * slot_bytes`` bytes of it. The arena has no name in any
    file system, so the kernel frees it with the last process that maps it, however that dies."""

    agent: str
    slot_bytes: Annotated[int, msgspec.Meta(ge=1, le=1 << 40)]
    slot_count: Annotated[int, msgspec.Meta(ge=1, le=1 << 32)]


class Refused(Message, frozen=True):
    """The connection is not accepted and will be closed."""

    reason: str


class SlotsLeased(Message, frozen=True):
    """The answer to one `LeaseSlots`: 1 to ``count`` slots, the connection's until handed back."""

    slots: tuple[int, ...]


class ExportStopped(Message, frozen=True):
    """The agent wants no more of this transfer (cancelled, refused, failed, deadline)."""

    transfer_id: str
    reason: str


class ImportReady(Message, frozen=True):
    """The extents cover [0, total_bytes) of the part exactly once, in flat order."""

    transfer_id: str
    extents: tuple[Extent, ...]
    part: int = 0


class ImportFailed(Message, frozen=True):
    """The part will not be here, or not as asked for."""

    transfer_id: str
    reason: str
    part: int = 0


class LoadedPart(msgspec.Struct, frozen=True):
    """Bytes of a transfer of tokens [from_token, to_token): the extents cover all of them exactly
    once, in flat order."""

    from_token: Tokens
    to_token: Tokens
    extents: tuple[Extent, ...]


class LoadReady(Message, frozen=True):
    """The parts together cover what was asked for; the one that ends last comes first. They stay
    until `CloseLoad`."""

    load: int
    parts: tuple[LoadedPart, ...]


class LoadFailed(Message, frozen=True):
    """The prefix is not here, or cannot be read now."""

    load: int
    reason: str


EngineMessage = (
    RegisterEngine | LeaseSlots | ReturnSlots | BeginExport | ExportSlot | FinishExport
    | AbortExport | OpenImport | CloseImport | DescribeTransfer | OpenLoad | CloseLoad
)  # fmt: skip
AgentMessage = (
    Registered | Refused | SlotsLeased | ExportStopped | ImportReady | ImportFailed
    | LoadReady | LoadFailed
)  # fmt: skip
