"""Ways found side by side in arrays, and those found by queue where engines are alike, are those
that a look at one engine after the other finds."""

from __future__ import annotations

import random
from math import inf

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from prfaas.core.deployment import EngineRole
from prfaas.policies.alike_ways import AlikeWays
from prfaas.policies.costs import LearnedCosts, ProfileCosts
from prfaas.policies.decode_load import DecodeLoad, slots_s
from prfaas.policies.first_token import soonest_remote
from prfaas.policies.learned_prefills import LearnedPrefills
from prfaas.policies.many_remote import ManyRemote
from prfaas.policies.many_ways import ManyWays
from prfaas.policies.route_choice import FewWays, Ways, candidates
from prfaas.policies.views import Costs
from prfaas.scheduler.events import MachinesCut, RequestArrived
from prfaas.scheduler.fleet import FleetState
from prfaas.scheduler.state import EngineState, Record
from prfaas.scheduler.topology import ClusterSpec, EngineSpec, LinkSpec, Topology


def topology(draw: random.Random) -> Topology:
    clusters = [ClusterSpec(f"d{i}", "pd") for i in range(draw.randint(1, 4))]
    clusters += [ClusterSpec(f"f{i}", "prfaas") for i in range(draw.randint(0, 4))]
    draw.shuffle(clusters)
    engines = []
    for cluster in clusters:
        for number in range(draw.randint(1, 9)):
            role: EngineRole = "decode"
            if cluster.kind == "prfaas" or draw.random() < 0.5:
                role = "prefill"
            engines.append(
                EngineSpec(
                    f"{cluster.name}e{number}",
                    cluster.name,
                    role,
                    draw.choice([2, 10, 64]),
                    kv_tokens=draw.choice([None, 5000, 200_000]),
                    machine=f"{cluster.name}m{number % 2}",
                )
            )
    links = tuple(
        LinkSpec(a.name, b.name, draw.choice([1e6, 1e9, None]), draw.choice([0.0, 0.02]))
        for a in clusters
        for b in clusters
        if b.kind == "pd" and draw.random() < 0.8
    )
    near = draw.choice([None, *(c.name for c in clusters if c.kind == "pd")])
    return Topology(tuple(clusters), tuple(engines), links, 64, near=near)


class Fleet:
    """One at random, on which something happens with each `step`."""

    def __init__(self, seed: int) -> None:
        self.draw = draw = random.Random(seed)
        topo = topology(draw)
        self.learned = LearnedPrefills(topo.cluster_of) if draw.random() < 0.5 else None
        costs: Costs
        if self.learned is not None:
            costs = LearnedCosts(self.learned, lambda start, end: 100.0 * (end - start) + 1e4)
        else:
            profiles = (lambda n: n / 1000, lambda n: n / 4000)
            costs = ProfileCosts(
                {spec.name: draw.choice(profiles) for spec in topo.engines},
                lambda n: 1e4 + 100 * n,
            )
        self.view = FleetState(topo, costs)
        self.now = 0.0

    def step(self) -> None:
        draw, view = self.draw, self.view
        self.now += draw.random()
        view.clock.now = self.now
        engine = draw.choice(list(view.engines.values()))
        draw.choice([self._work, self._work, self._answers, self._health, self._line])(engine)
        if self.learned is not None and draw.random() < 0.2:
            for _ in range(draw.choice([1, 20])):  # Minutes in which the others had no work.
                self.now += 60.0
                view.clock.now = self.now
                self.learned.prefill_given(engine.name, self.now)
        if self.learned is not None and draw.random() < 0.2:
            tokens = draw.randint(1, 9000)
            self.learned.prefill_seen(engine.name, tokens, tokens / 1000 + draw.random())

    def _work(self, engine: EngineState) -> None:
        if engine.prefills and self.draw.random() < 0.4:
            engine.unbook(10, 0.1, self.now, done=self.draw.random() < 0.5)
        else:
            tokens = self.draw.randint(1, 9000)
            engine.book(tokens, tokens / 1000 * self.draw.choice([1, 8]), self.now)
        if self.draw.random() < 0.5 or engine.decoding < 0:
            engine.prefill_records = dict.fromkeys(map(str, range(engine.prefills)), self.record())

    def _answers(self, engine: EngineState) -> None:
        engine.running = min(engine.max_requests, self.draw.choice([0, 3, 60]))
        engine.prefill_records = dict.fromkeys(map(str, range(engine.prefills)), self.record())
        engine.assigned = engine.running + self.draw.randint(0, 3)
        engine.kv_used = engine.running * self.draw.choice([10, 1000])
        if not engine.place.ready.drop("r") and self.draw.random() < 0.2:
            engine.place.ready.add(self.record(), 1.0)

    def _health(self, engine: EngineState) -> None:
        engine.set_usable(answers=self.draw.random() < 0.8)
        if self.draw.random() < 0.3:
            engine.takes_handoffs = not engine.takes_handoffs
        if self.draw.random() < 0.3 and not engine.place.prfaas:
            engine.role = self.draw.choice(["prefill", "decode"])
        engine.place.sort_roles()
        self.view.pairing.role_changed()

    def _line(self, engine: EngineState) -> None:
        if self.draw.random() < 0.3:
            other = self.draw.choice(list(self.view.engines.values()))
            self.view.pairing.cut_off(MachinesCut(engine.machine, other.machine), self.now)
        if self.view.links:
            link = self.draw.choice(list(self.view.links.values()))
            link.up = self.draw.random() < 0.7
            link.outstanding_bytes = self.draw.choice([0, 1e7])
            count = self.draw.randint(0, 4)
            link.records = dict.fromkeys(map(str, range(count)), self.record())

    def record(self) -> Record:
        names = list(self.view.engines) if hasattr(self, "view") else []
        count = self.draw.choice([0, self.draw.randint(0, len(names))])
        held = self.draw.sample(names, count)
        cached = {name: self.draw.choice([64, 640, 6400]) for name in held}
        resumable = {name: self.draw.choice([0, 64]) for name in held if self.draw.random() < 0.2}
        tokens = self.draw.choice([50, 100, 8000, 90_000])
        serves = self.draw.choice([None, tuple(self.draw.sample(names, len(names) // 2))])
        return Record(
            RequestArrived("r", tokens, 10, cached, resumable=resumable, serves=serves), self.now
        )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32))
def test_ways_are_those_of_each_engine_and_the_first_of_the_best_is_taken(seed: int) -> None:
    fleet = Fleet(seed)
    view, draw = fleet.view, fleet.draw
    loads = {cluster.name: DecodeLoad() for cluster in view.pd_clusters}
    for _ in range(20):
        fleet.step()
        request, now = fleet.record(), fleet.now
        for home, load in loads.items():
            view.by_name[home].completed += draw.randint(0, 3)
            load.look(view.by_name[home], view.costs, now)
        seen = view.seen_by(request)
        slot_s = [load.slot_s(seen.cluster(home)) for home, load in loads.items()]
        assert slots_s(list(loads.values()), seen.columns).tolist() == slot_s
        one_by_one = [
            way
            for home, wait_s in zip(seen.pd_clusters, slot_s, strict=True)
            for way in candidates(request, seen, home, wait_s, now)
        ]
        many = ManyWays(request, seen, np.array(slot_s), now)
        few = FewWays(iter(one_by_one), seen)
        assert list(many) == one_by_one
        found: list[Ways] = [many]
        if seen.alike is not None and not request.cached:
            found.append(AlikeWays(request, seen, seen.alike, list(loads.values()), now))
        soonest = few.soonest()
        for ways in found:
            assert ways.soonest() == soonest
            if soonest is not None:
                assert ways.idle_s() == few.idle_s()
            if soonest is not None and soonest.ttft_s < inf:
                limit_s, weight = soonest.ttft_s + draw.choice([0.0, 1.0, 100.0]), draw.random()
                assert ways.best(limit_s, weight) == few.best(limit_s, weight)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1 << 32))
def test_the_soonest_of_many_is_that_of_each_engine(seed: int) -> None:
    fleet = Fleet(seed)
    view = fleet.view
    for _ in range(20):
        fleet.step()
        request, now = fleet.record(), fleet.now
        seen = view.seen_by(request)
        many = ManyRemote(request, seen, now)
        for decode in view.engines.values():
            if decode.place.prfaas or decode.role != "decode":
                continue
            for without in (None, *list(view.links.values())[:2]):
                one_by_one = soonest_remote(request, seen, decode, now, without=without)
                assert many.soonest(decode, without=without) == one_by_one
