"""Routes, and the next one after a failure."""

from __future__ import annotations

from prfaas.policies.api import Refusal, Route, View
from prfaas.policies.homogeneous import HomogeneousConfig, HomogeneousPolicy
from prfaas.policies.views import RequestView
from prfaas.scheduler import commands as c
from prfaas.scheduler import events as e
from prfaas.scheduler.lifecycle import State
from prfaas.testing.scheduler_driver import LONG, SHORT, Driver, topology


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


def test_attempts_are_bounded() -> None:
    drive = Driver(max_attempts=2)
    drive.arrive(LONG)
    drive(e.PrefillFailed("r", 1, "boom"))
    failed = drive(e.PrefillFailed("r", 2, "boom"))[-1]
    assert isinstance(failed, c.FailRequest)
    assert failed.message == "gave up after 2 attempts: boom"


class Refusing(HomogeneousPolicy):
    def route(self, request: RequestView, view: View, *, now: float) -> Refusal:
        return Refusal(3.5, "too much to do")


def test_a_refused_request_ends_at_once_and_holds_nothing() -> None:
    drive = Driver(policy=Refusing(HomogeneousConfig()))
    [failed] = drive.arrive(LONG)
    assert failed == c.FailRequest("r", c.ErrorKind.OVERLOADED, "too much to do", 3.5)
    assert drive.scheduler.live_requests == 0
