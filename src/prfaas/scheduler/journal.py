"""The journal, the one trace schema: a JSON object a line, for each event and command.

``{"at": 12.5, "type": "StartPrefill", "request_id": "7", "attempt": 1, ...}``: ``type`` is the
entry's class, the other keys are its fields. Events and commands are the same objects for every
driver, so whatever reads the simulator's lines reads a gateway's. Beside them a journal holds what
the scheduler is not told: `JournalOpened` first, with all that a fresh scheduler needs to repeat
every command (`prfaas.scheduler.replay`), and a driver's notes. A file may hold several journals,
one after the other: each begins with its `JournalOpened`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from prfaas.core.deployment import SchedulerConfig
from prfaas.models.interpolation import Interpolation
from prfaas.models.kv_size import KvSize
from prfaas.policies.fading_line import Sums
from prfaas.scheduler.commands import AnyCommand
from prfaas.scheduler.events import AnyEvent
from prfaas.scheduler.topology import Topology

VERSION = 1
"""Counts up when a reader of older journals could misread a newer one."""


class Curve(msgspec.Struct, frozen=True):
    """Points of a measured curve, as `prfaas.models.interpolation.Table` takes them."""

    x: tuple[float, ...]
    y: tuple[float, ...]
    interpolation: Interpolation


class CostInputs(msgspec.Struct, frozen=True, kw_only=True):
    """What the scheduler's estimates start from. ``kv_size``: the bytes of a hand-off; None: they
    follow from the layout, once it is known. ``prefill``: engine -> seconds by uncached tokens;
    None: learned from the events. What is learned begins with ``seeds``, curves of profiles, or
    with what a predecessor has ``learned`` (`PrefillLearner.learned`); what a gateway learns of
    ``loads`` and decode ``steps`` begins likewise (`LearnedLoads`, `LearnedSteps`), the latter with
    ``step_seeds``: engine -> seconds of a step by the sequences of its batch. ``fetches``
    (`LearnedFetches`) and ``load_seeds`` (engine -> seconds of a load by tokens) are what the
    gateway's estimates of loads and pulls start from; events carry what they come to."""

    kv_size: KvSize | None = None
    prefill: dict[str, Curve] | None = None
    seeds: dict[str, Curve] = {}
    learned: dict[str, tuple[float, ...]] = {}
    loads: dict[str, Sums] = {}
    steps: dict[str, Sums] = {}
    step_seeds: dict[str, Curve] = {}
    fetches: dict[str, Sums] = {}
    load_seeds: dict[str, Curve] = {}


class Note(msgspec.Struct, frozen=True, gc=False, tag=True):
    """Base of what a driver writes down beside events and commands; the scheduler never sees it."""


class JournalOpened(Note, frozen=True, gc=False, kw_only=True):
    """The first line: what the scheduler was made from.

    ``unix_time``: the wall clock at this line's ``at``, so that every time of the journal has its
    date; None for simulated time. ``version``: of the schema.
    """

    driver: Literal["gateway", "simulator"]
    unix_time: float | None
    topology: Topology
    scheduler: SchedulerConfig
    costs: CostInputs
    version: int = VERSION


class RequestEnded(Note, frozen=True, gc=False, kw_only=True):
    """The last that a gateway says of a request, whether the scheduler ever heard of it or not.

    ``client_request_id``: the client's own, or what it was given. ``received_at``: when its body
    was here, on the journal's clock; ``rendered_s``: seconds from then until it was tokenised.
    ``status``: what the client was sent; ``outcome``: ``ok``, or in one word why not.
    ``kv_bytes_hidden``: of ``kv_bytes``, those stored by the receiver before prefill had ended.
    ``transfer_first_byte_s``: from ``received_at``. ``why_alone``: why the body reached one engine
    as it came; its length is not known then.
    """

    request_id: str
    client_request_id: str
    endpoint: str
    stream: bool
    received_at: float
    rendered_s: float | None = None
    why_alone: str | None = None
    status: int | None = None
    outcome: str
    error: str | None = None
    kv_bytes: int = 0
    kv_bytes_hidden: int | None = None
    transfer_first_byte_s: float | None = None


class LinesLost(Note, frozen=True, gc=False):
    """Before this one so many lines could not be written; a replay ends here."""

    lines: int


AnyNote = JournalOpened | RequestEnded | LinesLost
Entry = AnyEvent | AnyCommand | AnyNote

_ENCODER = msgspec.json.Encoder()
_DECODERS: dict[str, msgspec.json.Decoder[Entry]] = {
    kind.__name__: decoder
    for kinds in (AnyEvent, AnyCommand, AnyNote)
    for decoder in [msgspec.json.Decoder(kinds)]
    for kind in kinds.__args__
}


def encode(at: float, item: Entry) -> bytes:
    """One line, with its newline. ``at``: seconds on the driver's clock."""
    return b'{"at":%b,%b\n' % (_ENCODER.encode(at), _ENCODER.encode(item)[1:])


def decode(line: bytes) -> tuple[float, Entry]:
    """The reverse of `encode`. Raises msgspec.MsgspecError for anything else."""
    head = msgspec.json.decode(line, type=_Head)
    decoder = _DECODERS.get(head.type)
    if decoder is None:
        raise msgspec.ValidationError(f"no such entry: {head.type!r}")
    return head.at, decoder.decode(line)


class _Head(msgspec.Struct, frozen=True):
    at: float
    type: str
