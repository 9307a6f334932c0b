"""Any events in any order, late, doubled and false ones too: the scheduler keeps its promises."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from prfaas.core.deployment import SchedulerConfig
from prfaas.core.layout import KvGroup, KvLayout, LayerLayout
from prfaas.policies.costs import LearnedCosts
from prfaas.policies.learned_prefills import LearnedPrefills
from prfaas.policies.registry import POLICIES, for_policy, make_policy
from prfaas.scheduler import commands as c
from prfaas.scheduler import events as e
from prfaas.scheduler.lifecycle import State
from prfaas.scheduler.scheduler import Scheduler
from prfaas.scheduler.topology import ClusterSpec, EngineSpec, LinkSpec, Topology

ENGINES = {"e0": "east", "e1": "east", "p0": "west", "p1": "west", "d0": "west", "d1": "west",
           "x0": "south"}  # fmt: skip
CAPACITY = 2
TOPOLOGY = Topology(
    (ClusterSpec("east", "prfaas"), ClusterSpec("west", "pd"), ClusterSpec("south", "pd")),
    tuple(
        EngineSpec(
            name,
            place,
            "prefill" if name[0] in "ep" else "decode",
            CAPACITY,
            kv_tokens=150 if name == "d1" else None,
            machine=f"m{name[1]}",
        )
        for name, place in ENGINES.items()
    ),
    (LinkSpec("east", "west", 1e6), LinkSpec("west", "west", 1e9)),
    16,
    "west",
)
LACKING = [
    msgspec.structs.replace(
        TOPOLOGY, engines=tuple(spec for spec in TOPOLOGY.engines if spec.name not in gone)
    )
    for gone in (("e0",), ("d1", "p1"), ("d0", "d1"), ("x0",))
]
OTHERS = [
    *LACKING,
    msgspec.structs.replace(TOPOLOGY, links=()),
    msgspec.structs.replace(
        TOPOLOGY,
        engines=tuple(msgspec.structs.replace(s, max_requests=1) for s in TOPOLOGY.engines),
    ),
    TOPOLOGY,
]
"""What the deployment may become, and what it was."""
LAYER = LayerLayout(name="l0", index=0, page_bytes=64, dtype="u8", shape=(64,))
LAYOUTS = [
    KvLayout(
        model=name,
        groups=(KvGroup(kind="full_attention", block_tokens=16, layers=(LAYER,)),),
    )
    for name in ("old", "new")
]
MACHINES = ["m0", "m1"]
IDS = [str(i) for i in range(8)]

ids = st.sampled_from(IDS)
attempts = st.integers(1, 4)


class Work(NamedTuple):
    """Something that was asked for ends: the ``which``-th of all, well or badly."""

    which: int
    kind: str


work = st.builds(
    Work,
    st.integers(0, 20),
    st.sampled_from(["prefilled", "sent", "first", "done", "failed"]),
)
arrivals = st.builds(
    e.RequestArrived,
    ids,
    st.integers(1, 200),
    st.just(5),
    st.dictionaries(st.sampled_from(list(ENGINES)), st.integers(0, 200), max_size=3),
    st.sampled_from([None, 1e6, 200.0]),
    sequences=st.sampled_from([1, 1, 2, 3]),
    serves=st.none() | st.sets(st.sampled_from(list(ENGINES))).map(sorted).map(tuple),
)
events = st.one_of(
    *(
        st.builds(kind, ids, attempts)
        for kind in (
            e.PrefillCompleted,
            e.TransferCompleted,
            e.FirstToken,
            e.RequestCompleted,
        )
    ),
    st.builds(e.TransferProgressed, ids, attempts, st.none() | st.floats(0, 1)),
    *(
        st.builds(kind, ids, attempts, st.just("boom"))
        for kind in (e.PrefillFailed, e.TransferFailed, e.DecodeFailed)
    ),
    *(
        st.builds(kind, ids, attempts, st.just("boom"), st.sampled_from(e.Fault))
        for kind in (e.PrefillFailed, e.DecodeFailed)
    ),
    st.builds(e.RequestCancelled, ids),
    st.builds(e.EngineUp, st.sampled_from(list(ENGINES))),
    st.builds(e.EngineSuspected, st.sampled_from(list(ENGINES)), st.just("late")),
    st.builds(e.EngineDown, st.sampled_from(list(ENGINES)), st.just("gone")),
    st.builds(e.EngineCordoned, st.sampled_from(list(ENGINES)), st.just("upgrade")),
    st.builds(e.EngineUncordoned, st.sampled_from(list(ENGINES))),
    st.builds(
        e.MemoryReported,
        st.sampled_from([*MACHINES, ""]),
        st.sampled_from([100, 200, 10_000]),
        st.sampled_from([0, 100, 5_000]),
        st.just(10),
    ),
    st.builds(e.TopologyChanged, st.sampled_from(OTHERS)),
    st.builds(
        e.LinkStateChanged, st.sampled_from(["east", "west"]), st.just("west"), st.booleans()
    ),
    st.builds(e.LayoutKnown, st.sampled_from(LAYOUTS), st.tuples(st.sampled_from(list(ENGINES)))),
    st.builds(
        e.PairingChanged,
        st.sampled_from([(), (tuple(k.fingerprint() for k in LAYOUTS),)]),
    ),
    *(
        st.builds(kind, st.sampled_from(MACHINES), st.sampled_from(MACHINES))
        for kind in (e.MachinesCut, e.MachinesJoined)
    ),
    st.just(e.TimerFired()),
)


_OF_AN_ENGINE = (
    e.EngineUp,
    e.EngineSuspected,
    e.EngineDown,
    e.EngineCordoned,
    e.EngineUncordoned,
)


class Harness:
    """Counts from the outside: what runs on each engine, and how each request ended."""

    def __init__(self, policy: str) -> None:
        config = for_policy(SchedulerConfig(threshold=64, max_attempts=5), policy)
        prefills = LearnedPrefills(TOPOLOGY.cluster_of)
        costs = LearnedCosts(prefills, lambda start, end: end - start)
        self.scheduler = Scheduler(
            TOPOLOGY,
            make_policy(config),
            config,
            costs=costs,
            learner=prefills,
            on_engines=prefills.engines_are,
        )
        self.now = 0.0
        self.alarm = float("inf")
        self.decodes: dict[tuple[str, int], str] = {}
        self.prefills: dict[tuple[str, int], str] = {}
        self.asked: list[c.StartPrefill | c.StartDecode] = []
        self.started: set[tuple[str, int]] = set()
        self.lies: dict[str, tuple[str, str]] = {}
        """Transfer -> the machine where it lies."""
        self.ends: Counter[str] = Counter()
        self.arrivals: Counter[str] = Counter()
        self.cordoned: set[str] = set()
        self.left: set[str] = set()
        self.serves: dict[str, tuple[str, ...] | None] = {}
        self.promised: set[tuple[str, str]] = set()
        """(request, engine) of hand-offs on their way."""

    def feed(self, event: e.AnyEvent) -> None:
        before = self.scheduler.state(getattr(event, "request_id", ""))
        if isinstance(event, e.RequestArrived):
            if before is not None:
                return
            self.arrivals[event.request_id] += 1
            self.serves[event.request_id] = event.serves
            self.started = {key for key in self.started if key[0] != event.request_id}
        if isinstance(event, _OF_AN_ENGINE) and event.engine not in self.scheduler.view.engines:
            return
        if isinstance(event, e.LinkStateChanged) and not self.scheduler.view.link("east", "west"):
            return
        if isinstance(event, e.TimerFired):
            self.now, self.alarm = max(self.now, min(self.alarm, self.now + 60)), float("inf")
        self.now += 0.01
        commands = self.scheduler.handle(event, now=self.now)
        self.scheduler.check_integrity()
        self._forget(event, before)
        if isinstance(event, e.EngineCordoned):
            self.cordoned.add(event.engine)
        elif isinstance(event, e.EngineUncordoned):
            self.cordoned.discard(event.engine)
        elif isinstance(event, e.TopologyChanged):
            there = {spec.name for spec in event.topology.engines}
            self.cordoned = (self.cordoned | (ENGINES.keys() - there)) - (self.left & there)
            self.left = ENGINES.keys() - there
        for command in commands:
            self._obey(command)
        for running in (self.decodes, self.prefills):
            assert max(Counter(running.values()).values(), default=0) <= CAPACITY

    def _forget(self, event: Any, before: State | None) -> None:
        """What the event itself ends."""
        rid = getattr(event, "request_id", None)
        if before is not None and rid is not None and self.scheduler.state(rid) is None:
            if isinstance(event, e.RequestCompleted | e.RequestCancelled):
                self.ends[rid] += 1
            self.decodes = {k: v for k, v in self.decodes.items() if k[0] != rid}
        if isinstance(event, e.PrefillCompleted | e.PrefillFailed):
            self.prefills.pop((rid, event.attempt), None)
        if isinstance(event, e.EngineDown):
            self.decodes = {k: v for k, v in self.decodes.items() if v != event.engine}
            self.prefills = {k: v for k, v in self.prefills.items() if v != event.engine}

    def _obey(self, command: c.AnyCommand) -> None:
        if isinstance(command, c.StartPrefill | c.StartDecode):
            self.asked.append(command)
            self._check_cordon(command)
            self._check_serves(command)
        if isinstance(command, c.StartPrefill):
            key = (command.request_id, command.attempt)
            assert key not in self.started
            assert command.from_token < command.to_token
            self.started.add(key)
            self.prefills[key] = command.engine
            self.lies[command.transfer_id] = _machine(command.decode_engine)
        elif isinstance(command, c.StartDecode):
            beside = {k: v for k, v in self.decodes.items() if k[0] == command.request_id}
            assert len(beside) <= 1
            assert command.engine not in beside.values()
            if command.transfer_id is not None:
                assert _machine(command.engine) == self.lies[command.transfer_id]
            self.decodes[command.request_id, command.attempt] = command.engine
        elif isinstance(command, c.CancelPrefill):
            self.prefills.pop((command.request_id, command.attempt), None)
        elif isinstance(command, c.CancelDecode):
            self.decodes.pop((command.request_id, command.attempt), None)
        elif isinstance(command, c.FailRequest):
            self.ends[command.request_id] += 1
        elif isinstance(command, c.SetTimer):
            self.alarm = command.at

    def _check_cordon(self, command: c.StartPrefill | c.StartDecode) -> None:
        """A cordoned engine is given nothing but the answers to what was promised to it."""
        if isinstance(command, c.StartPrefill):
            assert not {command.engine, command.decode_engine} & self.cordoned
            self.promised.add((command.request_id, command.decode_engine))
        elif command.engine in self.cordoned:
            assert command.transfer_id is not None
            assert (command.request_id, command.engine) in self.promised

    def _check_serves(self, command: c.StartPrefill | c.StartDecode) -> None:
        """Nobody is asked who does not serve it."""
        serves = self.serves[command.request_id]
        asked = {command.engine}
        if isinstance(command, c.StartPrefill):
            asked.add(command.decode_engine)
        assert serves is None or asked <= set(serves)

    def work(self, work: Work) -> None:
        """Report on something that really is under way."""
        live = [start for start in self.asked if self.scheduler.state(start.request_id) is not None]
        if not live:
            return
        start = live[work.which % len(live)]
        rid, attempt = start.request_id, start.attempt
        if isinstance(start, c.StartPrefill):
            kinds: dict[str, e.AnyEvent] = {
                "prefilled": e.PrefillCompleted(rid, attempt),
                "failed": e.PrefillFailed(rid, attempt, "boom"),
            }
            self.feed(kinds.get(work.kind, e.TransferCompleted(rid, attempt)))
        else:
            kinds = {
                "first": e.FirstToken(rid, attempt),
                "failed": e.DecodeFailed(rid, attempt, "boom"),
            }
            self.feed(kinds.get(work.kind, e.RequestCompleted(rid, attempt)))

    def drain(self) -> None:
        """Everything works again: whatever is asked for succeeds."""
        self.feed(e.TopologyChanged(TOPOLOGY))
        for machine in (*MACHINES, ""):
            self.feed(e.MemoryReported(machine, 1_000_000, 0, 10))
        for name in ENGINES:
            self.feed(e.EngineUncordoned(name))
            self.feed(e.EngineUp(name))
        self.feed(e.LinkStateChanged("east", "west", up=True))
        for _ in range(200):
            for rid in (rid for rid in IDS if self.scheduler.state(rid) is not None):
                for attempt in range(1, 6):
                    for kind in (
                        e.PrefillCompleted,
                        e.TransferCompleted,
                        e.FirstToken,
                        e.RequestCompleted,
                    ):
                        self.feed(kind(rid, attempt))
            if self.scheduler.live_requests == 0:
                return
            self.feed(e.TimerFired())


def _machine(engine: str) -> tuple[str, str]:
    return ENGINES[engine], f"m{engine[1]}"


@settings(max_examples=150)
@given(st.sampled_from(sorted(POLICIES)), st.lists(arrivals | events | work, max_size=90))
def test_each_request_ends_once_whatever_happens(
    policy: str, script: list[e.AnyEvent | Work]
) -> None:
    harness = Harness(policy)
    for item in script:
        if isinstance(item, Work):
            harness.work(item)
        else:
            harness.feed(item)
    harness.drain()
    assert harness.scheduler.live_requests == 0
    assert harness.ends == harness.arrivals
    assert not harness.decodes
