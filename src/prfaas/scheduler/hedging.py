"""A second engine is asked where the first has not begun to answer in its share of the time.

Theory of operation. Whether an engine hangs or is only slow cannot be told before its first token,
so the first is not given up: a request may be DECODING on two engines, and whoever begins first
answers. `Record.hedge` is the earlier of the two attempts; the later one is the record's own.
Whatever ends either leaves the other as the only one, with the books as if it had always been.
"""

from __future__ import annotations

from prfaas.scheduler.state import EngineState, Hedge, Record


def begin(record: Record, second: EngineState) -> None:
    """``record`` decodes on ``second`` too, as a further attempt."""
    assert record.decode is not None
    record.hedge = Hedge(record.attempt, record.decode)
    record.last_attempt += 1
    record.attempt = record.last_attempt
    record.decode = second
    second.assigned += record.sequences
    second.take_slot(record)
    second.decode_records[record.request_id] = record


def forget_first(record: Record) -> Hedge:
    """The later attempt alone goes on; returns what the earlier one was, its slot free."""
    hedge = record.hedge
    assert hedge is not None
    record.hedge = None
    _leave(record, hedge.engine)
    return hedge


def forget_second(record: Record) -> Hedge:
    """The earlier attempt alone goes on; returns what the later one was, its slot free."""
    hedge, second = record.hedge, record.decode
    assert hedge is not None
    assert second is not None
    lost = Hedge(record.attempt, second)
    _leave(record, second)
    record.hedge = None
    record.attempt, record.decode = hedge
    return lost


def _leave(record: Record, engine: EngineState) -> None:
    engine.give_slot(record)
    engine.assigned -= record.sequences
    engine.changed()
    del engine.decode_records[record.request_id]
