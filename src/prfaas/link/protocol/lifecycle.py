"""The life of a transfer at either end, as transition tables (`prfaas.core.transitions`)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class SendingState(Enum):
    """A transfer as its sender sees it."""

    OFFERING = "offering"
    WAITING = "waiting"
    SENDING = "sending"
    COMPLETE = "complete"
    FAILED = "failed"


class SendingStep(Enum):
    """What changes a sender's `SendingState`."""

    ACCEPTED = "receiver accepted"
    DEFERRED = "receiver refused for now"
    REOFFERED = "time to offer again"
    ALL_ACKNOWLEDGED = "every byte acknowledged"
    ENDED = "cancelled, refused, deadline or receiver gave up"


SENDING_TRANSITIONS: Mapping[tuple[SendingState, SendingStep], SendingState] = {
    (SendingState.OFFERING, SendingStep.ACCEPTED): SendingState.SENDING,
    (SendingState.OFFERING, SendingStep.DEFERRED): SendingState.WAITING,
    (SendingState.OFFERING, SendingStep.ENDED): SendingState.FAILED,
    (SendingState.WAITING, SendingStep.REOFFERED): SendingState.OFFERING,
    (SendingState.WAITING, SendingStep.ENDED): SendingState.FAILED,
    (SendingState.SENDING, SendingStep.ALL_ACKNOWLEDGED): SendingState.COMPLETE,
    (SendingState.SENDING, SendingStep.ENDED): SendingState.FAILED,
}


class ReceivingState(Enum):
    """A transfer as its receiver sees it. ENDING: over, but a connection may still be writing
    into its memory."""

    ASKING = "asking"
    RECEIVING = "receiving"
    ENDING = "ending"
    COMPLETE = "complete"
    REFUSED = "refused"
    FAILED = "failed"


class ReceivingStep(Enum):
    """What changes a receiver's `ReceivingState`."""

    TAKEN = "sink gave memory"
    REFUSED = "sink refused"
    ALL_STORED = "every byte stored and verified"
    ENDED = "cancelled, superseded, deadline or sender gone"
    LET_GO = "no connection holds its memory"


RECEIVING_TRANSITIONS: Mapping[tuple[ReceivingState, ReceivingStep], ReceivingState] = {
    (ReceivingState.ASKING, ReceivingStep.TAKEN): ReceivingState.RECEIVING,
    (ReceivingState.ASKING, ReceivingStep.REFUSED): ReceivingState.REFUSED,
    (ReceivingState.ASKING, ReceivingStep.ENDED): ReceivingState.ENDING,
    (ReceivingState.RECEIVING, ReceivingStep.ALL_STORED): ReceivingState.COMPLETE,
    (ReceivingState.RECEIVING, ReceivingStep.ENDED): ReceivingState.ENDING,
    (ReceivingState.ENDING, ReceivingStep.TAKEN): ReceivingState.ENDING,
    (ReceivingState.ENDING, ReceivingStep.REFUSED): ReceivingState.REFUSED,
    (ReceivingState.ENDING, ReceivingStep.LET_GO): ReceivingState.FAILED,
}
