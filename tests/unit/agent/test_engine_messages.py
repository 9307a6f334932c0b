"""Every word of the engine socket has its event or effect."""

from __future__ import annotations

import msgspec
import pytest

from prfaas.agent.engine_messages import event_of, message_of
from prfaas.core.errors import EngineError
from prfaas.core.extents import Extent
from prfaas.core.handoff import MOST_REASON, RequestContext
from prfaas.core.prefixes import chain, root_digest, stretch
from prfaas.engine_socket.framing import decode_from_engine, encode
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
from prfaas.link.api import TransferOffer
from prfaas.link.protocol.frames import HEADER_BYTES, Kind, control, decode
from prfaas.pool.effects import AnswerImport, FailImport, GrantSlots, StartSend, StopExport
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
from prfaas.testing.pool_kit import PoolRig

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


WORST = BeginExport(
    "t" * 64, "w" * 128, 0, 1 << 32, (1 << 63) - 1, 60.0, MOCK_DIGEST, ("e" * 64,) * 32, -(1 << 31),
    RequestContext("r" * 128, 1 << 16, f"00-{'a' * 32}-{'b' * 16}-01"),
)  # fmt: skip


def test_what_an_engine_may_export_its_receiver_may_be_offered() -> None:
    """Or every offer of it would end a connection that others' transfers go over."""
    said = decode_from_engine(encode(WORST)[4:])
    (start,) = PoolRig().say(event_of(1, said, KEYED))
    assert isinstance(start, StartSend)
    assert decode(control(Kind.OFFER, start.offer)[HEADER_BYTES:], TransferOffer) == start.offer


@pytest.mark.parametrize(
    "other",
    [
        {"transfer_id": "t" * 65},
        {"transfer_id": "a/b"},
        {"destination": "w" * 129},
        {"from_token": -1},
        {"to_token": (1 << 32) + 1},
        {"total_bytes": 1 << 63},
        {"readers": ["e" * 65]},
        {"readers": ["\U0001f600" * 64] * 32},
        {"priority": 1 << 31},
    ],
)
def test_what_nobody_can_be_offered_is_no_export(other: dict[str, object]) -> None:
    said = msgspec.to_builtins(WORST) | other
    with pytest.raises(EngineError, match="cannot be read"):
        decode_from_engine(msgspec.msgpack.encode(said))


def test_tokens_that_are_none_are_not_exported() -> None:
    event = event_of(1, msgspec.structs.replace(WORST, from_token=17, to_token=16), KEYED)
    (stop,) = PoolRig().say(event)
    assert stop == StopExport(1, "t" * 64, "tokens [17, 16) are none")


def test_of_a_reason_so_much_is_kept_as_others_read() -> None:
    event = event_of(7, AbortExport("x", "why " * 100_000), KEYED)
    assert isinstance(event, ExportAborted)
    assert len(event.reason) == MOST_REASON
