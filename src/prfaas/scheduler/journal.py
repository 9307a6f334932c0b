"""The trace schema: one JSON object a line, for each event and command with its time.

``{"at": 12.5, "type": "StartPrefill", "request_id": "7", "attempt": 1, ...}``: ``type`` is the
event's or command's class, the other keys are its fields. Events and commands are the same objects
for every driver, so whatever reads the simulator's lines reads a gateway's.
"""

from __future__ import annotations

from typing import Any

import msgspec

from prfaas.scheduler.commands import AnyCommand
from prfaas.scheduler.events import AnyEvent

_ENCODER = msgspec.json.Encoder()
_EVENT = msgspec.json.Decoder(AnyEvent)
_COMMAND = msgspec.json.Decoder(AnyCommand)
_EVENT_NAMES = frozenset(kind.__name__ for kind in AnyEvent.__args__)


def encode(at: float, item: AnyEvent | AnyCommand) -> bytes:
    """One line, with its newline."""
    return b'{"at":%b,%b\n' % (_ENCODER.encode(at), _ENCODER.encode(item)[1:])


def decode(line: bytes) -> tuple[float, AnyEvent | AnyCommand]:
    """The reverse of `encode`. Raises msgspec.MsgspecError for anything else."""
    head: dict[str, Any] = msgspec.json.decode(line)
    decoder = _EVENT if head.get("type") in _EVENT_NAMES else _COMMAND
    item: AnyEvent | AnyCommand = decoder.decode(line)
    return float(head["at"]), item
