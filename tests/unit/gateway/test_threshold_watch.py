"""The threshold is searched on what arrives, and shown."""

from __future__ import annotations

import pytest

from prfaas.gateway import threshold_watch
from prfaas.gateway.threshold_watch import ThresholdWatch
from prfaas.scheduler.events import RequestArrived
from prfaas.testing.mock_deployment import MockDeployment, until
from prfaas.testing.policy_views import fleet


async def test_the_prompts_that_come_move_it_once_they_are_some(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    view = fleet()
    watch = ThresholdWatch(lambda: view)
    await watch.search()
    usual = watch.found["west"].threshold_tokens
    for n in range(31):
        watch.arrived(RequestArrived(f"{n}", 400, 10, {"d0": 100}))
    await watch.search()
    assert watch.found["west"].threshold_tokens == usual
    watch.arrived(RequestArrived("more", 200, 10))
    await watch.search()
    assert watch.found["west"].threshold_tokens <= 300 < usual
    assert len([r for r in caplog.records if "would carry most" in r.message]) == 2


async def test_it_is_shown_whatever_the_policy_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threshold_watch, "_EVERY_S", 0.05)
    mock = MockDeployment(policy="homogeneous")
    async with mock.running() as client:
        await mock.ready()
        await until(lambda: "west" in mock.gateway.thresholds.found)
        async with client.get("/metrics") as response:
            assert 'prfaas_scheduler_threshold_tokens{cluster="west"}' in await response.text()
