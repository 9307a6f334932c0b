"""The life of a transfer at either end, as transition tables: what is not in a table is a bug.

`diagram` draws a table for the documentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

from prfaas.core.errors import InvariantError


class Outgoing(Enum):
    """A transfer as its sender sees it."""

    OFFERING = "offering"
    WAITING = "waiting"
    SENDING = "sending"
    COMPLETE = "complete"
    FAILED = "failed"


class OutgoingStep(Enum):
    ACCEPTED = "receiver accepted"
    DEFERRED = "receiver refused for now"
    REOFFERED = "time to offer again"
    ALL_ACKNOWLEDGED = "every byte acknowledged"
    ENDED = "cancelled, refused, deadline or receiver gave up"


OUTGOING: Mapping[tuple[Outgoing, OutgoingStep], Outgoing] = {
    (Outgoing.OFFERING, OutgoingStep.ACCEPTED): Outgoing.SENDING,
    (Outgoing.OFFERING, OutgoingStep.DEFERRED): Outgoing.WAITING,
    (Outgoing.OFFERING, OutgoingStep.ENDED): Outgoing.FAILED,
    (Outgoing.WAITING, OutgoingStep.REOFFERED): Outgoing.OFFERING,
    (Outgoing.WAITING, OutgoingStep.ENDED): Outgoing.FAILED,
    (Outgoing.SENDING, OutgoingStep.ALL_ACKNOWLEDGED): Outgoing.COMPLETE,
    (Outgoing.SENDING, OutgoingStep.ENDED): Outgoing.FAILED,
}


class Incoming(Enum):
    """A transfer as its receiver sees it. ENDING: over, but a connection may still be writing
    into its memory."""

    ASKING = "asking"
    RECEIVING = "receiving"
    ENDING = "ending"
    COMPLETE = "complete"
    REFUSED = "refused"
    FAILED = "failed"


class IncomingStep(Enum):
    TAKEN = "sink gave memory"
    REFUSED = "sink refused"
    ALL_STORED = "every byte stored and verified"
    ENDED = "cancelled, superseded, deadline or sender gone"
    LET_GO = "no connection holds its memory"


INCOMING: Mapping[tuple[Incoming, IncomingStep], Incoming] = {
    (Incoming.ASKING, IncomingStep.TAKEN): Incoming.RECEIVING,
    (Incoming.ASKING, IncomingStep.REFUSED): Incoming.REFUSED,
    (Incoming.ASKING, IncomingStep.ENDED): Incoming.ENDING,
    (Incoming.RECEIVING, IncomingStep.ALL_STORED): Incoming.COMPLETE,
    (Incoming.RECEIVING, IncomingStep.ENDED): Incoming.ENDING,
    (Incoming.ENDING, IncomingStep.TAKEN): Incoming.ENDING,
    (Incoming.ENDING, IncomingStep.REFUSED): Incoming.REFUSED,
    (Incoming.ENDING, IncomingStep.LET_GO): Incoming.FAILED,
}

State = TypeVar("State", Outgoing, Incoming)
Step = TypeVar("Step", OutgoingStep, IncomingStep)


def advance(table: Mapping[tuple[State, Step], State], state: State, step: Step) -> State:
    """The state after ``step``. Raises InvariantError where the table has no such transition."""
    try:
        return table[state, step]
    except KeyError:
        raise InvariantError(f"a transfer that is {state.value} got {step.value!r}") from None


def diagram(table: Mapping[tuple[State, Step], State]) -> str:
    """The table as a Mermaid state diagram."""
    arrows = "\n".join(f"    {a.value} --> {b.value}: {s.value}" for (a, s), b in table.items())
    return f"stateDiagram-v2\n{arrows}"
