"""What an engine has room for."""

from __future__ import annotations

from prfaas.scheduler.events import RequestArrived
from prfaas.scheduler.state import Clock, ClusterState, EngineState, Record
from prfaas.scheduler.topology import ClusterSpec, EngineSpec


def record(tokens: int) -> Record:
    return Record(RequestArrived("r", tokens, 10), 0.0)


def test_slots_are_bounded_by_batch_and_kv_memory() -> None:
    spec = EngineSpec("d", "west", "decode", 3, kv_tokens=1000)
    engine = EngineState(spec, ClusterState(ClusterSpec("west", "pd")), Clock(), set())
    assert engine.has_slot(record(5000))  # Alone, whatever its size.
    engine.take_slot(record(590))
    assert engine.has_slot(record(390))
    assert not engine.has_slot(record(391))
    engine.take_slot(record(10))
    engine.take_slot(record(10))
    assert not engine.has_slot(record(1))
    for tokens in (590, 10, 10):
        engine.give_slot(record(tokens))
    assert (engine.running, engine.kv_used) == (0, 0)
