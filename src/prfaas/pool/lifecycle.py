"""The lives of an export and of a reception, as transition tables. The states are the words that
`GET /transfers/{id}` answers with; the diagrams in docs/agent.md are printed from here."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum, unique

from prfaas.core.transitions import diagram


@unique
class ExportState(StrEnum):
    """One rank's sending side."""

    PENDING = "pending"
    """A local hand-off for which no memory is free yet; its filled slots wait. Remote ones are
    never pending here: the link offers them until the receiver has room."""
    SENDING = "sending"
    COMPLETE = "complete"
    FAILED = "failed"


@unique
class ExportStep(StrEnum):
    """What moves an export on."""

    ADMITTED = "memory came free"
    ALL_ACKNOWLEDGED = "every byte acknowledged"
    ENDED = "engine, line, deadline, cancelled or stall"


EXPORT: Mapping[tuple[ExportState, ExportStep], ExportState] = {
    (ExportState.PENDING, ExportStep.ADMITTED): ExportState.SENDING,
    (ExportState.PENDING, ExportStep.ENDED): ExportState.FAILED,
    (ExportState.SENDING, ExportStep.ALL_ACKNOWLEDGED): ExportState.COMPLETE,
    (ExportState.SENDING, ExportStep.ENDED): ExportState.FAILED,
}


@unique
class ReceptionState(StrEnum):
    """One rank's receiving side. A failed one that had memory keeps it until it is let go."""

    RECEIVING = "receiving"
    COMPLETE = "complete"
    FAILED = "failed"


@unique
class ReceptionStep(StrEnum):
    """What moves a reception on."""

    ALL_STORED = "every byte stored, checksums right"
    GIVEN_UP = "sender, line, deadline or cancelled"
    DROPPED = "cancelled or deadline"


RECEPTION: Mapping[tuple[ReceptionState, ReceptionStep], ReceptionState] = {
    (ReceptionState.RECEIVING, ReceptionStep.ALL_STORED): ReceptionState.COMPLETE,
    (ReceptionState.RECEIVING, ReceptionStep.GIVEN_UP): ReceptionState.FAILED,
    (ReceptionState.COMPLETE, ReceptionStep.DROPPED): ReceptionState.FAILED,
}


def export_diagram() -> str:
    """The life of an export, in Mermaid."""
    return diagram(
        EXPORT,
        starts={
            ExportState.PENDING: "to this agent itself",
            ExportState.SENDING: "to another agent",
        },
        ends={
            ExportState.COMPLETE: "its engine has ended it too",
            ExportState.FAILED: "its engine has ended it too",
        },
    )


def reception_diagram() -> str:
    """The life of a reception, in Mermaid."""
    return diagram(
        RECEPTION,
        starts={
            ReceptionState.RECEIVING: "accepted, all slots reserved",
            ReceptionState.FAILED: "refused for good, or withdrawn before it was accepted",
        },
        ends={ReceptionState.FAILED: "neither link nor import nor copy touches its memory"},
    )
