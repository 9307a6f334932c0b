"""Prometheus sees what policies see."""

from __future__ import annotations

from prfaas.status.exposition import MetricsPage
from prfaas.testing.mock_deployment import MockDeployment


async def test_queues_lines_and_expectations_are_told() -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        await mock.gateway.thresholds.search()
        async with client.get("/metrics") as answer:
            page = MetricsPage(await answer.text())
    assert page.value("prfaas_scheduler_live_requests") == 0
    assert page.value("prfaas_scheduler_waiting_tokens") == 0
    for engine in mock.engines:
        assert page.value("prfaas_scheduler_engine_prefills", engine=engine) == 0
        assert (page.value("prfaas_scheduler_engine_slots", engine=engine) or 0) > 0
        assert (page.value("prfaas_scheduler_expected_prefill_seconds", engine=engine) or 0) > 0
    assert (page.value("prfaas_scheduler_line_rate_bytes_per_second", target="west") or 0) > 0
    assert page.value("prfaas_scheduler_waiting_requests", cluster="west") == 0
    assert (page.value("prfaas_scheduler_threshold_tokens", cluster="west") or 0) > 0
    assert page.value("prfaas_gateway_connections_dropped_total", why="room") == 0


async def test_what_is_to_be_scraped_is_named_with_where_it_runs() -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        async with client.get("/targets") as answer:
            groups = await answer.json()
    engines = {g["labels"]["engine"]: g for g in groups if g["labels"]["kind"] == "engine"}
    agents = {g["labels"]["agent"]: g for g in groups if g["labels"]["kind"] == "agent"}
    assert engines.keys() == mock.engines.keys()
    assert agents.keys() == mock.agents.keys()
    for name, group in engines.items():
        assert group["targets"] == [mock.engines[name].url.removeprefix("http://")]
        assert group["labels"]["__scheme__"] == "http"
        assert group["labels"]["cluster"] in {"east", "west"}
