"""Which exports are stopped when nothing moves."""

from __future__ import annotations

from prfaas.link.api import TransferKey, TransferOffer
from prfaas.pool.export import Export
from prfaas.pool.lifecycle import ExportState
from prfaas.pool.records import Sent
from prfaas.pool.stalls import PATIENCE, STALL_S, exports_to_stop


def export(name: str, to: str, acknowledged: int = 0) -> Export:
    key = TransferKey(name, 0, 1)
    record = Sent(key, 9, ExportState.SENDING, bytes_acknowledged=acknowledged)
    offer = TransferOffer(key, "", 0, 16, 9, 60.0)
    return Export(1, offer, to, False, 60.0, record)


def names(holding: list[Export], stalled_s: float) -> list[str]:
    return [e.key.transfer_id for e in exports_to_stop(holding, stalled_s)[0]]


def test_the_younger_half_of_what_goes_where_the_youngest_goes() -> None:
    holding = [export("a", "w"), export("b", "v"), export("c", "w", 5), export("d", "w")]
    assert names(holding, STALL_S - 0.1) == []
    assert names(holding, STALL_S) == ["d"]
    assert names(holding[:2], STALL_S) == ["b"]
    assert "took nothing" in exports_to_stop(holding, STALL_S)[1]


def test_a_slow_line_gets_more_patience() -> None:
    holding = [export("a", "w", 1), export("b", "w", 1)]
    assert names(holding, PATIENCE * STALL_S - 0.1) == []
    assert names(holding, PATIENCE * STALL_S) == ["b"]
    assert exports_to_stop(holding, PATIENCE * STALL_S)[1] == "let no memory come free for 6 s"
    assert names([], 99.0) == []
