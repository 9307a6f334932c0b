"""Spans and log lines of transfers between two whole agents, from a context that an engine gave."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from prfaas.agent.service import Agent
from prfaas.agent.settings import settings_for
from prfaas.agent.spans import TracedSink
from prfaas.core.deployment import Deployment, parse_deployment
from prfaas.core.handoff import RequestContext
from prfaas.launch.addresses import free_address
from prfaas.link.api import Refusal, TransferKey, TransferOffer
from prfaas.process.spans import NO_SPANS, make_spans
from prfaas.testing.mock_engine_rank import MockEngineRank
from prfaas.testing.otlp_collector import OtlpCollector, attributes

SIZE = 300_000
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CONTEXT = RequestContext("r-1", 2, f"00-{TRACE}-{SPAN}-01")


@pytest.fixture(autouse=True)
def patient_exports(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine's collector may take its time."""
    monkeypatch.setattr("prfaas.process.spans._EXPORT_WITHIN_S", 60.0)


def deployment(run: Path) -> Deployment:
    return parse_deployment(
        f"""
clusters:
- name: east
  kind: prfaas
  engines: [{{name: p0, role: prefill}}]
  agent: {{name: a-east, listen: "{free_address()}", socket: {run}/e, plaintext: true,
           arena: 4 MiB, slot: 64 KiB}}
- name: west
  kind: pd
  engines: [{{name: pdd, role: decode}}]
  agent: {{name: a-west, listen: "{free_address()}", socket: {run}/w, plaintext: true,
           arena: 4 MiB, slot: 64 KiB}}
links: [{{from: east, to: west}}]
""",
        source="test",
    )


async def hand_over(run: Path, endpoint: str | None, context: RequestContext | None) -> None:
    """One transfer that is read, and one that the receiver refuses: it is too large."""
    described = deployment(run)
    agents, every = [], []
    for name in ("a-east", "a-west"):
        spans = make_spans(endpoint, service="prfaas-agent", instance=name)
        agents.append(Agent(settings_for(described, name), spans=spans))
        every.append(spans)
    for agent in agents:
        await agent.start()
    ranks = [
        await asyncio.to_thread(MockEngineRank, str(run / socket), engine)
        for socket, engine in (("e", "p0"), ("w", "pdd"))
    ]
    try:
        export = ranks[0].export
        reason = await asyncio.to_thread(
            export, "t-2", "a-west", SIZE, readers=("pdd",), context=context
        )
        assert reason is None
        assert await asyncio.to_thread(ranks[1].read, "t-2", SIZE) == "ok"
        reason = await asyncio.to_thread(
            export, "t-3", "a-west", 64 << 20, readers=("pdd",), context=context
        )
        assert reason is not None
    finally:
        for rank in ranks:
            await asyncio.to_thread(rank.client.close)
        for agent in agents:
            await agent.close()
        for spans in every:
            await asyncio.to_thread(spans.close)


async def test_both_ends_of_a_transfer_are_spans_of_the_requests_trace(tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    with OtlpCollector() as collector:
        await hand_over(tmp_path, collector.url, CONTEXT)
        received = collector.named("kv receive")
        sent = {
            attributes(s)["prfaas.transfer_id"]: s for s in collector.spans if s is not received
        }
        made_by = [collector.made_by(s)["service.instance.id"] for s in (sent["t-2"], received)]
    assert made_by == ["a-east", "a-west"]
    for span in (*sent.values(), received):
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, SPAN)
        assert attributes(span)["prfaas.request_id"] == "r-1"
        assert attributes(span)["prfaas.attempt"] == 2
    for span in (sent["t-2"], received):
        assert attributes(span)["prfaas.kv_bytes"] == SIZE
        assert span.status.code == 0
    assert {name: span.name for name, span in sent.items()} == {"t-2": "kv send", "t-3": "kv send"}
    assert sent["t-3"].status.code == 2


async def test_a_hand_off_within_a_machine_is_a_span_too(tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    with OtlpCollector() as collector:
        spans = make_spans(collector.url, service="prfaas-agent", instance="a-west")
        agent = Agent(settings_for(deployment(tmp_path), "a-west"), spans=spans)
        await agent.start()
        rank = await asyncio.to_thread(MockEngineRank, str(tmp_path / "w"), "pdd")
        try:
            for name, size in (("whole", SIZE), ("large", 64 << 20)):
                reason = await asyncio.to_thread(
                    rank.export, name, "a-west", size, readers=("pdd",), context=CONTEXT
                )
                assert (reason is None) == (name == "whole"), reason
            assert await asyncio.to_thread(rank.read, "whole", SIZE) == "ok"
        finally:
            await asyncio.to_thread(rank.client.close)
            await agent.close()
            await asyncio.to_thread(spans.close)
        found = {attributes(span)["prfaas.transfer_id"]: span for span in collector.spans}
    assert {name: span.status.code for name, span in found.items()} == {"whole": 0, "large": 2}
    for span in found.values():
        assert span.name == "kv hand-over"
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, SPAN)
        assert span.start_time_unix_nano <= span.end_time_unix_nano


async def test_failures_are_logged_with_the_requests_id(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "prfaas.agent"):
        await hand_over(tmp_path, None, CONTEXT)
    ends = [r for r in caplog.records if " failed transfer=t-3 " in r.getMessage()]
    assert {r.getMessage().split(" ", 1)[0] for r in ends} >= {"offer", "export"}
    for record in ends:
        assert "request=r-1 attempt=2" in record.getMessage()
        said = vars(record)
        assert (said["request_id"], said["transfer_id"], said["attempt"]) == ("r-1", "t-3", "2")


async def test_without_a_context_nothing_is_recorded(tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    with OtlpCollector() as collector:
        await hand_over(tmp_path, collector.url, None)
        assert collector.spans == []


def test_what_is_refused_is_not_remembered() -> None:
    class Full:
        def offered(self, peer: str, offer: TransferOffer) -> Refusal:
            return Refusal("full", retry=True)

        def stored(self, key: TransferKey, flat_offset: int, length: int) -> None: ...

        def completed(self, key: TransferKey) -> None: ...

        def failed(self, key: TransferKey, reason: str) -> None: ...

        def withdrawn(self, key: TransferKey, reason: str) -> None: ...

    sink = TracedSink(Full(), NO_SPANS)
    offer = TransferOffer(TransferKey("t", 0, 1), "layout", 0, 16, 64, 9.0, context=CONTEXT)
    assert isinstance(sink.offered("a-east", offer), Refusal)
    assert not sink._begun
