"""What a journal must hold to be replayed, and what is said where it does not."""

from __future__ import annotations

import msgspec
import pytest

from prfaas.core.deployment import SchedulerConfig
from prfaas.core.errors import CallerError
from prfaas.core.layout import KvGroup, KvLayout, LayerLayout
from prfaas.models.kv_size import KvSize
from prfaas.scheduler.commands import SetTimer, StartDecode
from prfaas.scheduler.events import EngineUp, RequestArrived, TimerFired
from prfaas.scheduler.journal import (
    CostInputs,
    Curve,
    Entry,
    JournalOpened,
    LinesLost,
    decode,
    encode,
)
from prfaas.scheduler.replay import HandoffSizes, estimates_from, read_journal, replay
from prfaas.scheduler.topology import ClusterSpec, EngineSpec, LinkSpec, Topology

TOPOLOGY = Topology(
    (ClusterSpec("east", "prfaas"), ClusterSpec("west", "pd")),
    (EngineSpec("e1", "east", "prefill"), EngineSpec("d1", "west", "decode")),
    (LinkSpec("east", "west"),),
    alignment_tokens=4,
)
LAYER = LayerLayout(name="l", index=0, page_bytes=8, dtype="u8", shape=(8,))
GROUP = KvGroup(kind="full_attention", block_tokens=4, layers=(LAYER,))
OPENED = JournalOpened(
    driver="gateway",
    unix_time=1e9,
    topology=TOPOLOGY,
    scheduler=SchedulerConfig(policy="threshold"),
    costs=CostInputs(),
)


def test_the_first_line_goes_there_and_back() -> None:
    assert decode(encode(2.5, OPENED)) == (2.5, OPENED)


def test_costs_of_a_layout_are_its_bytes_and_learned() -> None:
    sizes = HandoffSizes()
    costs, learner = estimates_from(OPENED.costs, TOPOLOGY.cluster_of, sizes=sizes)
    assert costs.kv_bytes(4, 12) == 0
    sizes.learn(KvLayout(model="m", groups=(GROUP,)))
    assert costs.kv_bytes(4, 12) == 16
    before = costs.prefill_s("e1", 1000)
    assert learner is not None
    learner.prefill_seen("e1", 1000, 5.0)
    assert costs.prefill_s("e1", 1000) == pytest.approx(5.0) != before


def test_costs_of_profiles_are_theirs() -> None:
    curve = Curve((1000.0, 2000.0), (1.0, 3.0), "linear")
    inputs = CostInputs(kv_size=KvSize(100.0, 2.0), prefill={"e1": curve, "d1": curve})
    again = msgspec.json.decode(msgspec.json.encode(inputs), type=CostInputs)
    costs, learner = estimates_from(again, TOPOLOGY.cluster_of)
    assert learner is None
    assert costs.prefill_s("e1", 1500) == 2.0
    assert costs.kv_bytes(50, 150) == 300


def played(*entries: tuple[float, Entry]) -> list[object]:
    return list(replay(entries))


def test_what_was_not_recorded_differs() -> None:
    up, arrived = (1.0, EngineUp("d1")), (2.0, RequestArrived("r", 3, 5))
    (difference,) = replay([(0.0, OPENED), up, arrived, (3.0, EngineUp("d1"))])
    assert (difference.at, difference.event, difference.recorded) == (2.0, arrived[1], ())
    assert isinstance(difference.replayed[0], StartDecode)
    started = [(2.0, command) for command in difference.replayed]
    assert played((0.0, OPENED), up, arrived, *started, (3.0, EngineUp("d1"))) == []
    assert len(played((0.0, OPENED), up, (1.0, SetTimer(9.0)), arrived, *started)) == 1


def test_a_second_journal_in_one_file_has_a_scheduler_of_its_own() -> None:
    up, arrived = (1.0, EngineUp("d1")), (2.0, RequestArrived("r", 3, 5))
    (difference,) = replay([(0.0, OPENED), up, arrived])
    started = [(2.0, command) for command in difference.replayed]
    run = [(0.0, OPENED), up, arrived, *started]
    assert played(*run, *run) == []


def test_what_cannot_be_replayed_says_why() -> None:
    with pytest.raises(CallerError, match="made from"):
        played((1.0, EngineUp("d1")))
    with pytest.raises(CallerError, match="7 lines"):
        played((0.0, OPENED), (1.0, LinesLost(7)), (2.0, TimerFired()))
    with pytest.raises(CallerError, match="version 99"):
        played((0.0, msgspec.structs.replace(OPENED, version=99)))


def test_only_a_line_cut_short_is_passed_over() -> None:
    good = encode(1.0, EngineUp("e"))
    assert list(read_journal([good, good[:9]])) == [(1.0, EngineUp("e"))]
    lost = encode(2.0, LinesLost(1))
    assert [at for at, _ in read_journal([good, good[:9] + b"\n", lost])] == [1.0, 2.0]
    for lines in ([b"hello\n", good], [good, b'{"at":1,"type":"Nonsense"}\n']):
        with pytest.raises(CallerError, match="is no line of a journal"):
            list(read_journal(lines))
