"""Every word of the engine socket has its event or effect."""

from __future__ import annotations

import msgspec
import pytest

from prfaas.agent.engine_messages import event_of, message_of
from prfaas.core.errors import EngineError
from prfaas.core.extents import Extent
from prfaas.core.prefixes import chain, root_digest, stretch
from prfaas.engine_socket.messages import (
    AbortExport,
    BeginExport,
    CloseImport,
    DescribeTransfer,
    EngineMessage,
    ExportSlot,
    ExportStopped,
    FinishExport,
    ImportFailed,
    ImportReady,
    LeaseSlots,
    OpenImport,
    OpenLoad,
    RegisterEngine,
    ReturnSlots,
    SlotsLeased,
)
from prfaas.index.keyed_prefixes import KeyedPrefixes
from prfaas.pool.effects import AnswerImport, FailImport, GrantSlots, StopExport
from prfaas.pool.events import (
    AnyEvent,
    ExportAborted,
    ExportBegun,
    ExportFinished,
    ImportClosed,
    ImportOpened,
    LoadOpened,
    SlotFilled,
    SlotsRequested,
    SlotsReturned,
    TransferDescribed,
)
from prfaas.testing.mock_engine_rank import MOCK_DIGEST, mock_layout

EXTENTS = (Extent(1, 2, 3),)
KEYED = KeyedPrefixes(b"key")


@pytest.mark.parametrize(
    ("message", "event"),
    [
        (LeaseSlots(3), SlotsRequested(7, 3)),
        (ReturnSlots((1, 2)), SlotsReturned(7, (1, 2))),
        (
            BeginExport("x", "west", 1, 2, 3, 4.0, MOCK_DIGEST, ("e",), 5),
            ExportBegun(7, "x", "west", 1, 2, 3, 4.0, MOCK_DIGEST, ("e",), 5),
        ),
        (ExportSlot("x", 1, EXTENTS), SlotFilled(7, "x", 1, EXTENTS)),
        (FinishExport("x"), ExportFinished(7, "x")),
        (AbortExport("x", "why"), ExportAborted(7, "x", "why")),
        (OpenImport("x", 1, 2, 3, MOCK_DIGEST), ImportOpened(7, "x", 1, 2, 3, MOCK_DIGEST)),
        (CloseImport("x"), ImportClosed(7, "x")),
    ],
)
def test_events(message: EngineMessage, event: AnyEvent) -> None:
    assert event_of(7, message, KEYED) == event


def test_what_is_said_of_prefixes_goes_on_without_a_token() -> None:
    root, tokens = root_digest("w", adapter=None, salt="s"), list(range(70_000, 70_032))
    names = chain(root, tokens, 16)
    told = stretch(
        names, root, tokens, block_tokens=16, from_token=0, to_token=32, salt="s", adapter=None
    )
    assert told is not None
    event = event_of(7, DescribeTransfer("x", told), KEYED)
    assert event == TransferDescribed(7, "x", KEYED.keyed(told))
    load = OpenLoad(1, 0, 32, 16, names, "layout")
    secret = tuple(KEYED.name(name) for name in names)
    assert event_of(7, load, KEYED) == LoadOpened(7, 1, 0, 32, 16, secret, "layout")
    for wrong in (
        DescribeTransfer("x", msgspec.structs.replace(told, tokens=b"")),
        msgspec.structs.replace(load, names=(b"short",)),
    ):
        with pytest.raises(EngineError):
            event_of(7, wrong, KEYED)


def test_a_second_registration_is_a_breach() -> None:
    with pytest.raises(EngineError, match="unexpected RegisterEngine"):
        event_of(7, RegisterEngine("a", mock_layout(), 1), KEYED)


def test_messages() -> None:
    assert message_of(GrantSlots(7, (1, 2))) == SlotsLeased((1, 2))
    assert message_of(StopExport(7, "x", "why")) == ExportStopped("x", "why")
    assert message_of(AnswerImport(7, "x", EXTENTS)) == ImportReady("x", EXTENTS)
    assert message_of(FailImport(7, "x", "why")) == ImportFailed("x", "why")
