"""Lines of the trace schema go there and back."""

from __future__ import annotations

import msgspec
import pytest

from prfaas.policies.api import Route
from prfaas.scheduler.commands import ErrorKind, FailRequest, StartPrefill
from prfaas.scheduler.events import LinkStateChanged, RequestArrived
from prfaas.scheduler.journal import decode, encode


@pytest.mark.parametrize(
    "item",
    [
        RequestArrived("r", 100, 5, {"e": 64}, 9.5),
        LinkStateChanged("a", "b", up=False),
        StartPrefill("r", 2, "p", "d", "r-2", 0, 64, Route.OFFLOAD, "why"),
        FailRequest("r", ErrorKind.DEADLINE, "late"),
    ],
)
def test_round_trip(item: object) -> None:
    line = encode(1.25, item)  # type: ignore[arg-type]
    assert line.endswith(b"}\n")
    assert msgspec.json.decode(line)["type"] == type(item).__name__
    assert decode(line) == (1.25, item)


def test_foreign_lines_are_refused() -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode(b'{"at":1,"type":"Nonsense"}')
