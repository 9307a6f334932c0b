"""The life of a request as one table: (state, trigger) -> (action, states it may lead to).

Theory of operation. `TABLE` is the only place that says what may follow what. `assembly` binds
each `Action` to the method that does it, `Requests.move` refuses any step that the table does not
list, and triggers for which a state has no row are ignored: they are late news. The diagram in
docs/scheduling.md is printed from it by `mermaid`.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum, StrEnum, unique

import msgspec


@unique
class State(IntEnum):
    """Where a request stands."""

    ARRIVED = 0
    """Known, not yet routed; also after a failed attempt, before the next."""
    PARKED = 1
    """No engine that could answer is up anywhere."""
    WAITING = 2
    """Routed; its prefill engine has no place free."""
    PREFILLING = 3
    """On the prefill engine; KV cache may already be crossing."""
    SENDING = 4
    """Prefilled; KV cache still crossing."""
    RECEIVED = 5
    """KV cache has wholly crossed; the prefill engine has not answered yet."""
    READY = 6
    """Nothing is missing but a decode slot."""
    DECODING = 7
    """On the decode engine, no token yet."""
    STREAMING = 8
    """The client has seen a token."""
    COMPLETED = 9
    FAILED = 10
    CANCELLED = 11


TERMINAL = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED})


@unique
class Trigger(StrEnum):
    """What moves a request: an event of its own, or news of an engine, a line, the clock."""

    ROUTED = "routed"
    PLACE_FREED = "place freed"
    SLOT_FREED = "slot freed"
    ENGINE_RETURNED = "engine returned"
    BACKOFF_ENDED = "backoff ended"
    PREFILL_COMPLETED = "PrefillCompleted"
    PREFILL_FAILED = "PrefillFailed"
    TRANSFER_PROGRESSED = "TransferProgressed"
    TRANSFER_COMPLETED = "TransferCompleted"
    TRANSFER_FAILED = "TransferFailed"
    FIRST_TOKEN = "FirstToken"
    REQUEST_COMPLETED = "RequestCompleted"
    DECODE_FAILED = "DecodeFailed"
    REQUEST_CANCELLED = "RequestCancelled"
    PREFILL_ENGINE_LOST = "prefill engine lost"
    ENGINE_CORDONED = "engine cordoned"
    DECODE_CLUSTER_LOST = "decode cluster lost"
    DECODE_ENGINE_LOST = "decode engine lost"
    LINK_LOST = "link lost"
    LINE_SLOW = "line slow"
    STALLED = "transfer stalled"
    ATTEMPT_TIMED_OUT = "attempt timed out"
    DEADLINE_PASSED = "deadline passed"
    GAVE_UP_WAITING = "no engine came back"


@unique
class Action(StrEnum):
    """What a row of the table does; `assembly` says which method that is."""

    ROUTE = "route"
    REROUTE = "reroute"
    START_PREFILL = "start prefill"
    PREFILLED = "prefilled"
    PREFILLED_LAST = "prefilled last"
    WATCH_TRANSFER = "watch transfer"
    STALLED = "stalled"
    RECEIVED = "received"
    MAKE_READY = "make ready"
    START_DECODE = "start decode"
    STREAMING = "streaming"
    COMPLETE = "complete"
    RETRY_DECODE = "retry decode"
    HEDGE_DECODE = "hedge decode"
    PREFILL_LATE = "prefill late"
    CANCEL = "cancel"
    FAIL_DEADLINE = "fail: deadline"
    FAIL_UNAVAILABLE = "fail: unavailable"
    FAIL_ENGINE = "fail: engine"


class Step(msgspec.Struct, frozen=True):
    """One row: the action, and the states it may end in."""

    action: Action
    to: tuple[State, ...]


_S, _T = State, Trigger
# Where a request may stand after it was (re)routed, in one go.
_ROUTED = (_S.PARKED, _S.WAITING, _S.PREFILLING, _S.READY, _S.DECODING, _S.FAILED)
_TO_DECODE = (_S.READY, _S.DECODING, *_ROUTED[:3], _S.FAILED)
_REROUTE = Step(Action.REROUTE, _ROUTED)
_STALLED = Step(Action.STALLED, _ROUTED)
_PREFILL_LATE = Step(Action.PREFILL_LATE, _ROUTED)
_MAKE_READY = Step(Action.MAKE_READY, _TO_DECODE)
_RETRY_DECODE = Step(Action.RETRY_DECODE, _TO_DECODE)

TABLE: dict[tuple[State, Trigger], Step] = {
    (_S.ARRIVED, _T.ROUTED): Step(Action.ROUTE, _ROUTED),
    (_S.PARKED, _T.ENGINE_RETURNED): Step(Action.ROUTE, _ROUTED),
    (_S.PARKED, _T.GAVE_UP_WAITING): Step(Action.FAIL_UNAVAILABLE, (_S.FAILED,)),
    (_S.WAITING, _T.PLACE_FREED): Step(Action.START_PREFILL, (_S.PREFILLING,)),
    (_S.WAITING, _T.PREFILL_ENGINE_LOST): _REROUTE,
    (_S.WAITING, _T.ENGINE_CORDONED): _REROUTE,
    (_S.WAITING, _T.DECODE_CLUSTER_LOST): _REROUTE,
    (_S.WAITING, _T.LINK_LOST): _REROUTE,
    (_S.WAITING, _T.LINE_SLOW): _REROUTE,
    (_S.WAITING, _T.ATTEMPT_TIMED_OUT): _PREFILL_LATE,
    (_S.PREFILLING, _T.PREFILL_COMPLETED): Step(Action.PREFILLED, (_S.SENDING,)),
    (_S.PREFILLING, _T.PREFILL_FAILED): _REROUTE,
    (_S.PREFILLING, _T.TRANSFER_COMPLETED): Step(Action.RECEIVED, (_S.RECEIVED,)),
    (_S.PREFILLING, _T.TRANSFER_FAILED): _REROUTE,
    (_S.PREFILLING, _T.PREFILL_ENGINE_LOST): _REROUTE,
    (_S.PREFILLING, _T.DECODE_CLUSTER_LOST): _REROUTE,
    (_S.PREFILLING, _T.LINK_LOST): _REROUTE,
    (_S.PREFILLING, _T.LINE_SLOW): _REROUTE,
    (_S.PREFILLING, _T.ATTEMPT_TIMED_OUT): _PREFILL_LATE,
    (_S.SENDING, _T.TRANSFER_PROGRESSED): Step(Action.WATCH_TRANSFER, (_S.SENDING, *_ROUTED)),
    (_S.SENDING, _T.TRANSFER_COMPLETED): _MAKE_READY,
    (_S.SENDING, _T.TRANSFER_FAILED): _REROUTE,
    (_S.SENDING, _T.DECODE_CLUSTER_LOST): _REROUTE,
    (_S.SENDING, _T.LINK_LOST): _REROUTE,
    (_S.SENDING, _T.LINE_SLOW): _REROUTE,
    (_S.SENDING, _T.STALLED): _STALLED,
    (_S.SENDING, _T.ATTEMPT_TIMED_OUT): _REROUTE,
    # Every byte has arrived and was verified: what becomes of the prefill engine is no matter.
    (_S.RECEIVED, _T.PREFILL_COMPLETED): Step(Action.PREFILLED_LAST, _TO_DECODE),
    (_S.RECEIVED, _T.PREFILL_FAILED): _MAKE_READY,
    (_S.RECEIVED, _T.PREFILL_ENGINE_LOST): _MAKE_READY,
    (_S.RECEIVED, _T.ATTEMPT_TIMED_OUT): _MAKE_READY,
    (_S.RECEIVED, _T.DECODE_CLUSTER_LOST): _REROUTE,
    (_S.READY, _T.SLOT_FREED): Step(Action.START_DECODE, (_S.DECODING,)),
    (_S.READY, _T.BACKOFF_ENDED): _MAKE_READY,
    (_S.READY, _T.DECODE_ENGINE_LOST): _MAKE_READY,
    (_S.READY, _T.ENGINE_CORDONED): _MAKE_READY,
    (_S.READY, _T.DECODE_CLUSTER_LOST): _REROUTE,
    (_S.DECODING, _T.FIRST_TOKEN): Step(Action.STREAMING, (_S.STREAMING,)),
    (_S.DECODING, _T.REQUEST_COMPLETED): Step(Action.COMPLETE, (_S.COMPLETED,)),
    (_S.DECODING, _T.DECODE_FAILED): _RETRY_DECODE,
    (_S.DECODING, _T.DECODE_ENGINE_LOST): _RETRY_DECODE,
    (_S.DECODING, _T.ATTEMPT_TIMED_OUT): Step(Action.HEDGE_DECODE, (_S.DECODING,)),
    (_S.STREAMING, _T.REQUEST_COMPLETED): Step(Action.COMPLETE, (_S.COMPLETED,)),
    (_S.STREAMING, _T.DECODE_FAILED): Step(Action.FAIL_ENGINE, (_S.FAILED,)),
    (_S.STREAMING, _T.DECODE_ENGINE_LOST): Step(Action.FAIL_ENGINE, (_S.FAILED,)),
} | {
    (state, trigger): step
    for state in State
    if state not in TERMINAL
    for trigger, step in (
        (_T.REQUEST_CANCELLED, Step(Action.CANCEL, (_S.CANCELLED,))),
        (_T.DEADLINE_PASSED, Step(Action.FAIL_DEADLINE, (_S.FAILED,))),
    )
    if not (state is _S.STREAMING and trigger is _T.DEADLINE_PASSED)
}


def successors() -> dict[State, frozenset[State]]:
    """State -> every state that some row leads to from it."""
    return {
        state: frozenset(to for (at, _), step in TABLE.items() if at is state for to in step.to)
        for state in State
    }


def mermaid() -> Iterator[str]:
    """The table as lines of a Mermaid state diagram. Rows shared by all live states (cancelled,
    deadline passed) are left to the text, or the picture would show little else."""
    shared = {_T.REQUEST_CANCELLED, _T.DEADLINE_PASSED}
    labels: dict[tuple[State, str], list[str]] = {}
    for (state, trigger), step in TABLE.items():
        if trigger in shared:
            continue
        to = "REROUTE" if step in (_REROUTE, _STALLED, _PREFILL_LATE) else step.to[0].name
        labels.setdefault((state, to), []).append(trigger.value)
    yield "stateDiagram-v2"
    yield "    [*] --> ARRIVED"
    yield '    state "next route, new attempt" as REROUTE'
    for (state, to), triggers in labels.items():
        yield f"    {state.name} --> {to}: {', '.join(triggers)}"
    for end in sorted(TERMINAL):
        yield f"    {end.name} --> [*]"
