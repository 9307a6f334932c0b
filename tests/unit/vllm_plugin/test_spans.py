"""What a rank's exports and loads say of the requests they are for: spans, and ids in its log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("vllm")

from prfaas.core.handoff import ExportParams, RequestContext  # noqa: E402
from prfaas.core.layout import KvGroup, KvLayout, LayerLayout  # noqa: E402
from prfaas.process.spans import ENDPOINT_VARIABLES  # noqa: E402
from prfaas.testing.loopback_agent_client import LoopbackAgentClient  # noqa: E402
from prfaas.testing.mock_engine_rank import MOCK_DIGEST  # noqa: E402
from prfaas.vllm_plugin import spans as module  # noqa: E402
from prfaas.vllm_plugin.export import Exporter  # noqa: E402
from prfaas.vllm_plugin.load import Importer  # noqa: E402
from prfaas.vllm_plugin.metadata import ExportStep, ImportStart  # noqa: E402
from prfaas.vllm_plugin.pages import CpuCopier  # noqa: E402
from prfaas.vllm_plugin.spans import Told, told_of  # noqa: E402

LAYER = LayerLayout(name="fa.0", index=0, page_bytes=12, dtype="uint8", shape=(12,))
LAYOUT = KvLayout(
    model="m", groups=(KvGroup(kind="full_attention", block_tokens=4, layers=(LAYER,)),)
)
CONTEXT = RequestContext("r-1", 2, f"00-{'a' * 32}-{'b' * 16}-01")


@dataclass
class Recorded:
    """`Spans` that are kept."""

    on: bool = True
    made: list[tuple[str, str, dict[str, Any], bool]] = field(default_factory=list)

    def record(
        self,
        name: str,
        context: RequestContext,
        began_at: float,
        ended_at: float,
        attributes: Mapping[str, Any],
        *,
        failed: bool = False,
    ) -> None:
        assert began_at <= ended_at
        self.made.append((name, context.request_id, dict(attributes), failed))

    def close(self) -> None: ...


def rank(client: LoopbackAgentClient, spans: Recorded) -> tuple[Exporter, Importer]:
    pages = {"fa.0": torch.zeros(16, 12, dtype=torch.uint8)}
    parts: Any = (client, LAYOUT, pages, CpuCopier(), Told(spans, engine="e", rank=3))
    return Exporter(*parts), Importer(*parts)


def step(context: RequestContext | None) -> ExportStep:
    params = ExportParams(
        transfer_id="t-2",
        destination="w",
        readers=("w",),
        from_token=0,
        to_token=8,
        context=context,
    )
    return ExportStep("cmpl-r-1-0", params, MOCK_DIGEST, 0, 8, True, ([1, 2],))


def load(importer: Importer, transfer_id: str, context: RequestContext | None) -> None:
    start = ImportStart("cmpl-r-1-0", transfer_id, MOCK_DIGEST, 0, 8, 0, ([3, 4],), context=context)
    importer.start(start)
    until = time.monotonic() + 60
    while not importer.take_results(set()).finished:
        assert time.monotonic() < until, "the load was never reported"


def test_exports_and_loads_are_spans_and_failures_name_the_request(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    spans = Recorded()
    exporter, importer = rank(LoopbackAgentClient(slot_bytes=64, slots=8), spans)
    exporter.step_ended([step(CONTEXT)])
    load(importer, "t-2", CONTEXT)
    load(importer, "t-9", CONTEXT)
    where = {"prfaas.engine": "e", "prfaas.rank": 3, "prfaas.attempt": 2}
    where |= {"prfaas.from_token": 0, "prfaas.to_token": 8}
    assert spans.made == [
        ("kv export", "r-1", {**where, "prfaas.transfer_id": "t-2"}, False),
        ("kv load", "r-1", {**where, "prfaas.transfer_id": "t-2"}, False),
        ("kv load", "r-1", {**where, "prfaas.transfer_id": "t-9"}, True),
    ]
    (record,) = caplog.records
    assert "import t-9 (request r-1, attempt 2) failed" in record.getMessage()
    said = vars(record)
    assert (said["request_id"], said["vllm_request_id"]) == ("r-1", "cmpl-r-1-0")
    assert (said["transfer_id"], said["attempt"]) == ("t-9", "2")
    importer.close()


def test_an_export_that_is_given_up_is_a_failed_span() -> None:
    spans = Recorded()
    exporter, importer = rank(LoopbackAgentClient(slot_bytes=64, slots=8), spans)
    given = step(CONTEXT)
    exporter.layer_computed(given, "fa.0")
    exporter.abort("t-2", "the boundary is never reached")
    assert [(name, failed) for name, _, _, failed in spans.made] == [("kv export", True)]
    importer.close()


@pytest.mark.parametrize(("context", "on"), [(None, True), (CONTEXT, False)])
def test_nothing_is_recorded_without_a_context_or_a_tracer(
    context: RequestContext | None, on: bool
) -> None:
    spans = Recorded(on=on)
    exporter, importer = rank(LoopbackAgentClient(slot_bytes=64, slots=8), spans)
    exporter.step_ended([step(context)])
    load(importer, "t-2", context)
    assert spans.made == []
    importer.close()


def test_an_engine_starts_without_the_packages_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENDPOINT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert not told_of("e", 0)._spans.on
    monkeypatch.setenv(ENDPOINT_VARIABLES[0], "http://127.0.0.1:4318/v1/traces")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    assert not told_of("e", 0)._spans.on


def test_vllms_own_tracer_is_used_where_it_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class TracerProvider:
        def get_tracer(self, name: str) -> str:
            return f"tracer {name}"

    api = SimpleNamespace(get_tracer_provider=TracerProvider)
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", api)  # type: ignore[arg-type]
    sdk = SimpleNamespace(TracerProvider=TracerProvider)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", sdk)  # type: ignore[arg-type]
    spans = module._vllms_own()
    assert spans is not None
    assert vars(spans)["_tracer"] == "tracer prfaas.connector"
