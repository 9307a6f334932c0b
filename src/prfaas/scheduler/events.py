"""What happened: the only input of the scheduler. Frozen, in the past tense.

``attempt`` is the number that the command which started the work carried; the scheduler ignores
events of attempts it has given up, so a driver may report whatever it sees, in any order. Events of
one request after its end are ignored as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from prfaas.core.deployment import EngineRole
from prfaas.core.layout import KvLayout
from prfaas.scheduler.topology import Topology


class Event(msgspec.Struct, frozen=True, gc=False, tag=True):
    """Base; as JSON each carries its type's name under ``type``."""


class Fault(StrEnum):
    """What a failure says of its engine, and so what may help."""

    ENGINE = "engine"
    """It failed, refused for reasons of its own, or was never reached: try another."""
    LOST = "lost"
    """It went away while it had the request. Another may too: the request may be the reason."""
    FULL = "full"
    """It has no place for the request now."""


class RequestArrived(Event, frozen=True, gc=False):
    """A prompt of ``total_tokens`` wants at most ``max_output_tokens``.

    ``request_id``: never used twice; transfer ids are made from it, so at most 56
    characters of [A-Za-z0-9_-], chosen by the driver (a client's own id is not safe here).
    ``cached``: engine name -> prompt tokens whose KV cache it holds in whole blocks (absent: none).
    ``resumable``: of these, how many the engine can go on from without a hand-off (absent: all). A
    recurrent state comes with a hand-off; without one the engine's own must be there.
    ``fetch_s``: engine name -> seconds to load or pull what of ``cached`` lies elsewhere.
    ``sequences``: how many answers are computed at once: so many slots it takes of an engine.
    ``deadline``: the time by which the first token is due; None: whenever.
    ``tenant``, ``tenant_class``, ``weight``, ``priority``: whose turn it is where requests wait
    (`turns`). Of classes and priorities a lower one goes first; ``weight`` is above 0.
    ``serves``: the engines that may be asked, for others do not serve its model or its adapter;
    None: all may.
    """

    request_id: str
    total_tokens: int
    max_output_tokens: int
    cached: Mapping[str, int] = {}
    deadline: float | None = None
    resumable: Mapping[str, int] = {}
    sequences: int = 1
    tenant: str = ""
    tenant_class: int = 0
    weight: float = 1.0
    priority: int = 0
    fetch_s: Mapping[str, float] = {}
    serves: tuple[str, ...] | None = None


class PrefillCompleted(Event, frozen=True, gc=False):
    """The prefill engine answered and handed every byte to its agent."""

    request_id: str
    attempt: int


class PrefillFailed(Event, frozen=True, gc=False):
    """The prefill engine refused, broke off, exported nothing, or could not be reached."""

    request_id: str
    attempt: int
    reason: str
    fault: Fault = Fault.ENGINE


class TransferProgressed(Event, frozen=True, gc=False):
    """More of the transfer has arrived since the last report: it is not stalled. Optional.
    ``share``: of its bytes that are there (0 to 1), where known."""

    request_id: str
    attempt: int
    share: float | None = None


class TransferCompleted(Event, frozen=True, gc=False):
    """The receiving agent holds and has verified every byte."""

    request_id: str
    attempt: int


class TransferFailed(Event, frozen=True, gc=False):
    """The transfer will never be complete."""

    request_id: str
    attempt: int
    reason: str


class FirstToken(Event, frozen=True, gc=False):
    """The first token went out to the client: from here on nothing can be retried unseen."""

    request_id: str
    attempt: int


class RequestCompleted(Event, frozen=True, gc=False):
    """The client has the whole answer, of ``output_tokens`` where that is known."""

    request_id: str
    attempt: int
    output_tokens: int | None = None


class DecodeFailed(Event, frozen=True, gc=False):
    """The decode engine refused the request, broke off, or could not be reached.

    ``retry_after_s``: when an engine that is full may have a place.
    """

    request_id: str
    attempt: int
    reason: str
    fault: Fault = Fault.ENGINE
    retry_after_s: float | None = None


class RequestCancelled(Event, frozen=True, gc=False):
    """The client went away."""

    request_id: str


class LayoutKnown(Event, frozen=True, gc=False):
    """How ``engines`` hold their KV cache, each of its ranks like this one: from now on they can
    hand prompts over. Told for every group of engines that are alike, and again when it grows."""

    layout: KvLayout
    engines: tuple[str, ...]


class PairingChanged(Event, frozen=True, gc=False):
    """Which layouts fit. ``unfit``: (of a prefill engine, of a decode engine) by their fingerprints
    (`KvLayout.fingerprint`), all that do not; whatever was said before is over."""

    unfit: tuple[tuple[str, str], ...]


class MachinesCut(Event, frozen=True, gc=False):
    """The line is up, but the agent of machine ``source`` has no connection to ``target``'s."""

    source: str
    target: str


class MachinesJoined(Event, frozen=True, gc=False):
    """The agent of machine ``source`` has a connection to ``target``'s again."""

    source: str
    target: str


class EngineUp(Event, frozen=True, gc=False):
    """The engine answers (again); its prefix cache counts as empty until the next arrivals.

    ``takes_handoffs``: whether its agent can send and receive for it; ``changes_role``: whether its
    KV layout pairs with its whole cluster's, so that it may do the work of the other role. Both are
    told again when they change.
    """

    engine: str
    takes_handoffs: bool = True
    changes_role: bool = True


class KvMemoryKnown(Event, frozen=True, gc=False):
    """How many tokens of prompts and answers an engine's KV memory holds; each request counts as
    ``tokens_each`` more (recurrent states, sliding windows)."""

    engine: str
    tokens: int
    tokens_each: int = 0


class EngineShared(Event, frozen=True, gc=False):
    """Other gateways use the engine too: this one may take so many decode ``slots`` and
    ``prefills`` at a time, whatever the file says beyond that. Beside it the others have prefill
    work of ``others_queued_s`` seconds there, ``others_kv_tokens`` of its KV memory, and had, of
    late, ``others_prefills``."""

    engine: str
    slots: int
    prefills: int
    others_queued_s: float = 0.0
    others_kv_tokens: int = 0
    others_prefills: int = 0


class DecisionsTold(Event, frozen=True, gc=False):
    """Another gateway leads, and has decided so: engine -> role where it is not the file's, PD
    cluster -> threshold in tokens where the policy moves it."""

    roles: Mapping[str, EngineRole] = {}
    thresholds: Mapping[str, int] = {}


class LeadBegun(Event, frozen=True, gc=False):
    """Nobody leads before this gateway: it decides by itself (again)."""


class EngineSuspected(Event, frozen=True, gc=False):
    """The engine may be failing: it gets no new work, what it has goes on. EngineUp ends that; its
    prefix cache counts as before."""

    engine: str
    reason: str


class EngineDown(Event, frozen=True, gc=False):
    """The engine is gone, and with it all that it was working on."""

    engine: str
    reason: str


class EngineCordoned(Event, frozen=True, gc=False):
    """An operator wants the engine drained: it finishes what runs and what was promised to it, and
    takes no more, whether it answers or not."""

    engine: str
    reason: str


class EngineUncordoned(Event, frozen=True, gc=False):
    """A cordoned engine may be given work again."""

    engine: str


class TopologyChanged(Event, frozen=True, gc=False):
    """Clusters, engines or lines joined, left or were configured anew: this is what there is now.
    Its ``alignment_tokens`` says nothing."""

    topology: Topology


class MemoryReported(Event, frozen=True, gc=False):
    """How much memory for hand-offs a machine's agent has, and how much of it is reserved, by
    whomever. ``slot_bytes``: it is given out in pieces of so much."""

    machine: str
    total_bytes: int
    reserved_bytes: int
    slot_bytes: int


class LinkStateChanged(Event, frozen=True, gc=False):
    """One direction of a line as its sender sees it now.

    ``rate_bytes_per_s``: what it can carry (the limit, or the goodput where saturated); None where
    nothing is known beyond the configuration.
    """

    source: str
    target: str
    up: bool
    rate_bytes_per_s: float | None = None
    utilisation: float = 0.0
    congestion: float = 0.0
    rtt_s: float = 0.0


class TimerFired(Event, frozen=True, gc=False):
    """The time of the last `SetTimer` has come. Early or extra ones do no harm."""


RequestEvent = (
    PrefillCompleted
    | PrefillFailed
    | TransferProgressed
    | TransferCompleted
    | TransferFailed
    | FirstToken
    | RequestCompleted
    | DecodeFailed
)
AnyEvent = (
    RequestArrived
    | RequestEvent
    | RequestCancelled
    | LayoutKnown
    | PairingChanged
    | MachinesCut
    | MachinesJoined
    | EngineUp
    | KvMemoryKnown
    | EngineShared
    | DecisionsTold
    | LeadBegun
    | EngineSuspected
    | EngineDown
    | EngineCordoned
    | EngineUncordoned
    | TopologyChanged
    | MemoryReported
    | LinkStateChanged
    | TimerFired
)
