"""The scheduler's main paths, event by event."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from prfaas.core.deployment import SchedulerConfig
from prfaas.core.errors import CallerError, ConfigError, InvariantError
from prfaas.policies.api import RoleChange, Route, View
from prfaas.policies.homogeneous import FixedSidePolicy
from prfaas.policies.costs import LearnedCosts
from prfaas.policies.registry import make_policy
from prfaas.scheduler import commands as c
from prfaas.scheduler import events as e
from prfaas.scheduler.lifecycle import State
from prfaas.scheduler.scheduler import Scheduler
from prfaas.scheduler.topology import ClusterSpec, EngineSpec, LinkSpec, Topology

LONG, SHORT = 2000, 600


def topology(*, prefills: int = 1, decodes: int = 1, capacity: int = 8) -> Topology:
    engines = [EngineSpec("east-1", "east", "prefill", capacity)]
    engines += [EngineSpec(f"west-p{i}", "west", "prefill", capacity) for i in range(prefills)]
    engines += [EngineSpec(f"west-d{i}", "west", "decode", capacity) for i in range(decodes)]
    return Topology(
        clusters=(ClusterSpec("east", "prfaas"), ClusterSpec("west", "pd")),
        engines=tuple(engines),
        links=(LinkSpec("east", "west", 25e6),),
        alignment_tokens=256,
    )


class Driver:
    """Feeds events, keeps every command; time moves by hand."""

    def __init__(self, topo: Topology | None = None, **config: Any) -> None:
        settings = SchedulerConfig(**{"threshold": 1024, **config})
        topo = topo or topology()
        self.costs = LearnedCosts(topo.cluster_of, lambda start, end: end - start)
        self.scheduler = Scheduler(topo, make_policy(settings), settings, costs=self.costs)
        self.now = 0.0
        self.log: list[c.AnyCommand] = []

    def __call__(self, event: e.AnyEvent, *, at: float | None = None) -> list[c.AnyCommand]:
        self.now = self.now if at is None else at
        out = self.scheduler.handle(event, now=self.now)
        self.scheduler.check_integrity()
        self.log += out
        return [command for command in out if not isinstance(command, c.SetTimer)]

    def arrive(
        self, tokens: int, rid: str = "r", *, at: float | None = None, **more: Any
    ) -> list[c.AnyCommand]:
        return self(e.RequestArrived(rid, tokens, 10, **more), at=at)

    def alarm(self) -> list[c.AnyCommand]:
        timer = next(x for x in reversed(self.log) if isinstance(x, c.SetTimer))
        return self(e.TimerFired(), at=timer.at)


def test_long_prompt_is_offloaded_and_decoded_after_prefill_and_transfer() -> None:
    drive = Driver()
    [start] = drive.arrive(LONG)
    assert isinstance(start, c.StartPrefill)
    assert (start.route, start.engine, start.decode_engine) == (Route.OFFLOAD, "east-1", "west-d0")
    assert (start.from_token, start.to_token) == (0, 1792)
    assert start.reason == "uncached 2000 > threshold 1024"
    assert drive(e.PrefillCompleted("r", 1)) == []
    [decode] = drive(e.TransferCompleted("r", 1))
    assert isinstance(decode, c.StartDecode)
    assert (decode.transfer_id, decode.engine) == (start.transfer_id, "west-d0")
    drive(e.FirstToken("r", 1))
    assert drive.scheduler.state("r") is State.STREAMING
    assert drive(e.RequestCompleted("r", 1)) == []
    assert drive.scheduler.live_requests == 0


def test_transfer_may_complete_before_the_prefill_answers() -> None:
    drive = Driver()
    drive.arrive(LONG)
    assert drive(e.TransferCompleted("r", 1)) == []
    assert isinstance(drive(e.PrefillCompleted("r", 1))[0], c.StartDecode)


def test_prefill_times_are_learned_without_the_wait_in_the_queue() -> None:
    drive = Driver()
    for rid in ("a", "b", "c"):
        drive.arrive(LONG, rid)
    drive(e.PrefillCompleted("a", 1), at=0.5)
    drive(e.TransferCompleted("b", 1), at=0.9)
    drive(e.PrefillCompleted("b", 1), at=1.0)
    assert drive.costs.prefill_s("east-1", LONG) == pytest.approx(0.5)
    drive(e.RequestCancelled("c"), at=1.1)
    drive.arrive(LONG, "d", at=9.0)
    drive(e.PrefillCompleted("d", 1), at=9.5)
    assert drive.costs.prefill_s("east-1", LONG) == pytest.approx(0.5)


def test_a_prefill_is_not_timed_while_another_is_given_up() -> None:
    """Which of the two the engine was at is not known."""
    drive = Driver()
    drive.arrive(LONG, "a")
    drive.arrive(LONG, "b")
    drive(e.RequestCancelled("b"), at=5.0)
    before = drive.costs.prefill_s("east-1", LONG)
    drive(e.PrefillCompleted("a", 1), at=6.0)
    assert drive.costs.prefill_s("east-1", LONG) == before


def test_short_prompt_stays_in_the_pd_cluster_and_one_block_is_direct() -> None:
    drive = Driver()
    assert drive.arrive(SHORT, "a")[0].route is Route.PD_P
    [direct] = drive.arrive(256, "b")
    assert isinstance(direct, c.StartDecode)
    assert direct.route is Route.DIRECT
    assert direct.transfer_id is None


def test_cached_prefix_counts_and_shortens_the_hand_off() -> None:
    drive = Driver()
    [start] = drive.arrive(LONG, cached={"west-d0": 1100})
    assert (start.route, start.from_token, start.to_token) == (Route.PD_P, 1024, 1792)
    [direct] = drive.arrive(LONG, "full", cached={"west-d0": 1792, "west-p0": 1792})
    assert isinstance(direct, c.StartDecode)
    assert direct.reason.endswith("nothing to hand over")


def test_abundant_bandwidth_counts_the_longest_prefix_of_any_cluster() -> None:
    drive = Driver(bandwidth="abundant")
    [start] = drive.arrive(LONG, cached={"east-1": 1536})
    assert start.route is Route.OFFLOAD
    assert "longer prefix" in start.reason


def test_failures_go_from_offload_to_pd_p_to_direct_with_new_transfers() -> None:
    drive = Driver()
    [first] = drive.arrive(LONG)
    cancelled, dropped, second = drive(e.PrefillFailed("r", 1, "boom"))
    assert isinstance(cancelled, c.CancelPrefill)
    assert isinstance(dropped, c.CancelTransfer)
    assert (second.route, second.engine, second.attempt) == (Route.PD_P, "west-p0", 2)
    assert second.transfer_id != first.transfer_id
    assert drive(e.PrefillCompleted("r", 1)) == []  # Late news of the first attempt.
    *_, third = drive(e.TransferFailed("r", 2, "checksum"))
    assert isinstance(third, c.StartDecode)
    assert (third.route, third.attempt, third.transfer_id) == (Route.DIRECT, 3, None)


def test_prefill_engine_down_moves_its_requests_and_is_not_chosen_again() -> None:
    drive = Driver()
    drive.arrive(LONG)
    assert drive(e.EngineDown("east-1", "exit 9"))[-1].route is Route.PD_P
    [other] = drive.arrive(LONG, "s")
    assert other.route is Route.PD_P
    assert "no PrfaaS engine in reach" in other.reason
    drive(e.EngineUp("east-1"))
    assert drive.arrive(LONG, "t")[0].route is Route.OFFLOAD


def test_dead_line_moves_requests_after_its_grace_only() -> None:
    drive = Driver()
    drive.arrive(LONG)
    assert drive(e.LinkStateChanged("east", "west", up=False), at=1.0) == []
    assert drive.arrive(LONG, "s")[0].route is Route.PD_P
    drive(e.LinkStateChanged("east", "west", up=True), at=1.5)
    assert drive.alarm() == []
    drive(e.LinkStateChanged("east", "west", up=False), at=10.0)
    assert drive.alarm()[-1].route is Route.PD_P


def test_stalled_transfer_is_given_up_unless_it_progresses() -> None:
    drive = Driver(transfer_stall="10 s")
    drive.arrive(LONG)
    drive(e.PrefillCompleted("r", 1), at=1.0)
    drive(e.TransferProgressed("r", 1), at=9.0)
    assert drive.alarm() == []
    *_, again = drive.alarm()
    assert drive.now == 19.0
    assert "stalled" in again.reason


def test_transfer_that_crawls_is_given_up() -> None:
    """After its prefill: 2% in ten seconds would leave minutes to go, 40% does not."""
    for share, kept in ((0.12, False), (0.5, True)):
        drive = Driver(transfer_stall="10 s")
        drive.arrive(LONG)
        drive(e.TransferProgressed("r", 1, 0.02), at=1.0)
        drive(e.PrefillCompleted("r", 1), at=2.0)
        drive(e.TransferProgressed("r", 1, 0.1), at=3.0)
        assert drive(e.TransferProgressed("r", 1, 0.11), at=9.0) == []
        followed = drive(e.TransferProgressed("r", 1, share), at=13.0)
        if kept:
            assert followed == []
        else:
            assert followed[-1].route is Route.PD_P
            assert followed[-1].reason == "the transfer is too slow: 88% missing after 10 s"


def test_decode_failure_before_the_first_token_retries_with_the_same_transfer() -> None:
    drive = Driver(topology(decodes=2))
    [start] = drive.arrive(LONG)
    drive(e.TransferCompleted("r", 1))
    drive(e.PrefillCompleted("r", 1))
    cancel, retry = drive(e.DecodeFailed("r", 1, "reset"))
    assert isinstance(cancel, c.CancelDecode)
    assert (retry.engine, retry.attempt) == ("west-d1", 2)
    assert retry.transfer_id == start.transfer_id


def test_only_decode_engine_fails_is_retried_after_a_pause() -> None:
    drive = Driver()
    drive.arrive(256)
    assert len(drive(e.DecodeFailed("r", 1, "reset"))) == 1
    [retry] = drive.alarm()
    assert isinstance(retry, c.StartDecode)
    assert drive.now == 0.25


def test_prefill_engine_stands_in_where_no_decode_engine_is_up() -> None:
    drive = Driver(topology(prefills=2))
    drive.arrive(LONG, "under way")
    *_, moved = drive(e.EngineDown("west-d0", "exit"))
    assert isinstance(moved, c.StartDecode)
    assert (moved.route, moved.engine, moved.transfer_id) == (Route.DIRECT, "west-p0", None)
    assert moved.reason.endswith("no decode engine is up, west-p0 stands in")
    [new] = drive.arrive(LONG, "new", cached={"west-p1": 512, "east-1": 1024})
    assert (new.route, new.engine) == (Route.DIRECT, "west-p1")
    *_, again = drive(e.EngineDown("west-p1", "exit"))
    assert (again.request_id, again.engine) == ("new", "west-p0")
    drive(e.EngineUp("west-d0"))
    assert drive.arrive(LONG, "later")[0].route is Route.OFFLOAD
    for rid in ("under way", "new"):
        drive(e.RequestCompleted(rid, 2))
    assert drive.scheduler.live_requests == 1


def test_stand_in_serves_who_waits_for_it_after_a_decode_engine_came_back() -> None:
    south = (ClusterSpec("south", "pd"), EngineSpec("south-d0", "south", "decode", 1))
    west = topology(capacity=1)
    drive = Driver(
        Topology(
            (*west.clusters, south[0]), (*west.engines, south[1]), west.links, west.alignment_tokens
        )
    )
    drive(e.EngineDown("west-d0", "exit"))
    drive(e.EngineDown("south-d0", "exit"))
    assert drive.arrive(256, "a")[0].engine == "west-p0"
    assert drive.arrive(256, "b") == []
    drive(e.EngineUp("south-d0"))
    [start] = drive(e.RequestCompleted("a", 1))
    assert (start.request_id, start.engine) == ("b", "west-p0")


def test_request_waits_for_an_engine_to_come_back() -> None:
    drive = Driver(engine_wait="60 s")
    drive(e.EngineDown("west-p0", "exit"))
    drive(e.EngineDown("west-d0", "exit"))
    assert drive.arrive(LONG) == []
    assert drive.scheduler.state("r") is State.PARKED
    assert drive(e.EngineUp("west-d0"), at=5.0)[0].route is Route.OFFLOAD
    drive(e.EngineDown("west-d0", "exit"))
    assert drive.alarm() == []  # The first wait's; the second began at 5.
    failed = drive.alarm()[-1]
    assert isinstance(failed, c.FailRequest)
    assert (failed.kind, drive.now) == (c.ErrorKind.UNAVAILABLE, 65.0)


def test_failure_after_the_first_token_is_visible() -> None:
    drive = Driver(topology(decodes=2))
    drive.arrive(256)
    drive(e.FirstToken("r", 1))
    failed = drive(e.EngineDown("west-d0", "exit"))[-1]
    assert isinstance(failed, c.FailRequest)
    assert failed.kind is c.ErrorKind.ENGINE


def test_deadline_ends_a_request_and_an_attempt_uses_only_its_share() -> None:
    drive = Driver()
    drive.arrive(LONG, deadline=100.0)
    assert drive.alarm()[-1].route is Route.PD_P
    assert drive.now == 50.0
    assert drive.alarm()[-1].route is Route.DIRECT
    while drive.scheduler.live_requests:
        last = drive.alarm()
    assert (drive.now, last[-1].kind) == (100.0, c.ErrorKind.DEADLINE)


def test_attempts_are_bounded() -> None:
    drive = Driver(max_attempts=2)
    drive.arrive(LONG)
    drive(e.PrefillFailed("r", 1, "boom"))
    failed = drive(e.PrefillFailed("r", 2, "boom"))[-1]
    assert isinstance(failed, c.FailRequest)
    assert failed.message == "gave up after 2 attempts: boom"


def test_capacity_holds_prefills_and_decodes_back_in_order() -> None:
    drive = Driver(topology(capacity=1))
    drive.arrive(SHORT, "a")
    assert drive.arrive(SHORT, "b") == []
    assert drive.scheduler.state("b") is State.WAITING
    assert drive(e.PrefillCompleted("a", 1))[0].request_id == "b"
    drive(e.PrefillCompleted("b", 1))
    drive(e.TransferCompleted("a", 1))
    assert drive(e.TransferCompleted("b", 1)) == []
    drive(e.FirstToken("a", 1))
    [start] = drive(e.RequestCompleted("a", 1))
    assert (start.request_id, type(start)) == ("b", c.StartDecode)


def test_cancel_stops_whatever_runs_and_frees_the_slot() -> None:
    drive = Driver(topology(capacity=1))
    drive.arrive(256, "a")
    drive.arrive(256, "b")
    cancel, start = drive(e.RequestCancelled("a"))
    assert isinstance(cancel, c.CancelDecode)
    assert start.request_id == "b"
    assert drive(e.RequestCancelled("a")) == []


def test_the_first_prefill_of_an_engine_that_came_up_teaches_nothing() -> None:
    drive = Driver()
    drive(e.EngineDown("east-1", "exit"))
    drive(e.EngineUp("east-1"))
    before = drive.costs.prefill_s("east-1", LONG)
    drive.arrive(LONG, "a")
    drive(e.PrefillCompleted("a", 1), at=9.0)
    assert drive.costs.prefill_s("east-1", LONG) == before
    drive.arrive(LONG, "b")
    drive(e.PrefillCompleted("b", 1), at=9.5)
    assert drive.costs.prefill_s("east-1", LONG) == pytest.approx(0.5)


class AlwaysPrefill(FixedSidePolicy):
    period_s = 1.0

    def adjust(self, view: View, *, now: float) -> list[RoleChange]:
        return [RoleChange(e.name, "prefill", "why not") for e in view.engines.values()]


@pytest.mark.parametrize("changes_role", [False, True])
def test_an_engine_changes_its_role_only_if_it_can(changes_role: bool) -> None:
    topo = topology(decodes=2)
    engines = [msgspec.structs.replace(x, changes_role=changes_role) for x in topo.engines]
    topo = msgspec.structs.replace(topo, engines=tuple(engines))
    costs = LearnedCosts(topo.cluster_of, lambda start, end: 0)
    policy = AlwaysPrefill(offloads=False)
    scheduler = Scheduler(topo, policy, SchedulerConfig(), costs=costs)
    scheduler.handle(e.TimerFired(), now=0.0)
    out = scheduler.handle(e.TimerFired(), now=1.0)
    changed = [command.engine for command in out if isinstance(command, c.ChangeRole)]
    assert changed == (["west-d0"] if changes_role else [])


def test_refusals() -> None:
    drive = Driver()
    drive.arrive(LONG)
    with pytest.raises(CallerError, match="in use"):
        drive.arrive(LONG)
    with pytest.raises(CallerError, match="unknown engine 'x'"):
        drive(e.EngineUp("x"))
    with pytest.raises(InvariantError, match="backwards"):
        drive(e.TimerFired(), at=-1.0)
    with pytest.raises(ConfigError, match=r"Known: .*threshold"):
        make_policy(SchedulerConfig(policy="best"))


def test_request_in_line_that_loses_its_engine_starts_once() -> None:
    """A request that waits in line, is placed elsewhere, and whose old line moves on."""
    drive = Driver(topology(decodes=2, capacity=1))
    for rid in ("a", "b"):
        drive.arrive(256, rid)
    assert drive.arrive(256, "c") == []
    drive(e.DecodeFailed("a", 1, "reset"))  # Retried after a pause: both engines are taken or bad.
    drive(e.EngineDown("west-d0", "exit"))
    while drive.scheduler.state("b") is not None:
        drive(e.RequestCompleted("b", 1))
    drive(e.EngineUp("west-d0"))
    running = [r for r in "ac" if drive.scheduler.state(r) is State.DECODING]
    assert running == ["a", "c"]
    starts = [x for x in drive.log if isinstance(x, c.StartDecode) and x.request_id == "c"]
    assert len(starts) == 1
