"""What a gateway and an agent tell each other so that several gateways can share engines, typed.

``PUT /gateways/{id}`` carries a `Renewal` and is answered with a `Standing`. The id is that of one
life of a gateway process, and the stem of every transfer id that it makes.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec

SESSION_ID = re.compile(r"^[a-z0-9]{8,24}\Z")
LAPSES_AFTER_S = 5.0
"""A session that was not renewed for so long is over. Five renewals: a busy machine may be late."""
MOST_ENGINES = 512
"""Of one machine, in one renewal."""
MOST_SESSIONS = 64
"""That live, at one agent; far beyond the gateways of a deployment."""

MOST_COUNTED, MOST_KV_TOKENS = 1 << 24, 1 << 40
"""Whoever has more says so many."""

Count = Annotated[int, msgspec.Meta(ge=0, le=MOST_COUNTED)]
Amount = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Places = Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]
"""That may be taken: everybody may have one."""
Total = Annotated[int, msgspec.Meta(ge=0, le=1 << 60)]
"""Of all gateways."""


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """Places of one kind on an engine: ``total`` there are by the file, ``held`` are taken by this
    gateway, ``wanted`` it would take had it all, and ``may`` it may take, so far as it knows."""

    total: Count
    held: Count
    wanted: Count
    may: Count


class EngineUse(msgspec.Struct, frozen=True, kw_only=True):
    """What one gateway has outstanding at one engine: ``decode`` slots, ``prefill`` places, prefill
    work of ``queued_s`` seconds by its estimate, ``kv_tokens`` of KV memory. ``begun``: prefills
    that it has begun there, ever."""

    decode: Use
    prefill: Use
    queued_s: Amount = 0.0
    kv_tokens: Annotated[int, msgspec.Meta(ge=0, le=MOST_KV_TOKENS)] = 0
    begun: Annotated[int, msgspec.Meta(ge=0, le=1 << 50)] = 0


class EngineShare(msgspec.Struct, frozen=True, kw_only=True):
    """How many ``decode`` slots and ``prefill`` places of an engine the gateway may take until it
    is told otherwise, and what all others together have there. ``others_prefills``: how many
    prefills of theirs were there of late."""

    decode: Places
    prefill: Places
    others_decode: Total = 0
    others_prefills: Total = 0
    others_queued_s: Annotated[float, msgspec.Meta(ge=0, le=1e15)] = 0.0
    others_kv_tokens: Total = 0


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """What the leading gateway has decided for all. ``roles``: engine -> the role it has or is
    turning to, where that is not the file's. ``thresholds``: PD cluster -> tokens, where the policy
    moves them."""

    roles: Annotated[dict[Name, Literal["prefill", "decode"]], msgspec.Meta(max_length=512)] = {}
    thresholds: Annotated[dict[Name, Count], msgspec.Meta(max_length=256)] = {}


class Renewal(msgspec.Struct, frozen=True, kw_only=True):
    """``name``: the gateway's in the deployment file. ``known``: how many gateways, itself among
    them, it knows to be alive. ``engines``: those of the agent's machine.
    ``decided``: only of the one that leads, as far as it knows."""

    name: Name
    known: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 1
    engines: Annotated[dict[Name, EngineUse], msgspec.Meta(max_length=MOST_ENGINES)] = {}
    decided: Decided | None = None


class LiveGateway(msgspec.Struct, frozen=True, kw_only=True):
    """One whose session has not lapsed; ``silent_s``: since it was renewed."""

    id: Annotated[str, msgspec.Meta(max_length=24)]
    name: Name
    silent_s: Amount = 0.0
    decided: Decided | None = None


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How things stand for the gateway that asks; ``gateways`` are all that live, it among them."""

    gateways: Annotated[list[LiveGateway], msgspec.Meta(max_length=MOST_SESSIONS)]
    engines: Annotated[dict[str, EngineShare], msgspec.Meta(max_length=MOST_ENGINES)] = {}


def session_of(transfer_id: str) -> str:
    """The session whose gateway has made a transfer id; of other ids anything."""
    return transfer_id.partition("-")[0]
