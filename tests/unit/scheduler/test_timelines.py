"""One line per request, from a journal."""

from __future__ import annotations

import msgspec

from prfaas.core.deployment import SchedulerConfig
from prfaas.models.kv_size import KvSize
from prfaas.policies.api import Route
from prfaas.scheduler.commands import ErrorKind, FailRequest, StartDecode, StartPrefill
from prfaas.scheduler.events import (
    FirstToken,
    PrefillCompleted,
    RequestArrived,
    RequestCancelled,
    RequestCompleted,
    TransferCompleted,
)
from prfaas.scheduler.journal import CostInputs, Entry, JournalOpened, RequestEnded
from prfaas.scheduler.timelines import Timeline, timelines
from prfaas.scheduler.topology import ClusterSpec, EngineSpec, Topology

SIMULATED = JournalOpened(
    driver="simulator",
    unix_time=None,
    topology=Topology(
        (ClusterSpec("east", "prfaas"), ClusterSpec("west", "pd")),
        (
            EngineSpec("e1", "east", "prefill"),
            EngineSpec("d1", "west", "decode"),
            EngineSpec("d2", "west", "decode"),
        ),
        (),
        alignment_tokens=4,
    ),
    scheduler=SchedulerConfig(),
    costs=CostInputs(kv_size=KvSize(0.0, 1.0)),
)
SERVED = msgspec.structs.replace(SIMULATED, driver="gateway", unix_time=1000.0)
OFFLOADED: list[tuple[float, Entry]] = [
    (5.0, RequestArrived("r", 70, 9, {"d1": 4, "d2": 8, "e1": 32})),
    (5.5, StartPrefill("r", 1, "e1", "d1", "r-1", 4, 68, Route.OFFLOAD, "long")),
    (6.0, PrefillCompleted("r", 1)),
    (6.5, TransferCompleted("r", 1)),
    (6.5, StartDecode("r", 1, "d1", "r-1", 4, 68, Route.OFFLOAD, "long")),
    (7.0, FirstToken("r", 1)),
    (8.0, RequestCompleted("r", 1)),
]


def test_an_offloaded_request_of_a_simulation() -> None:
    (found,) = timelines([(0.0, SIMULATED), *OFFLOADED])
    assert found == Timeline(
        request_id="r",
        arrived_at=5.0,
        total_tokens=70,
        cached_tokens=8,
        max_output_tokens=9,
        route="offload",
        reason="long",
        prefill_engine="e1",
        decode_engine="d1",
        attempts=1,
        from_token=4,
        to_token=68,
        outcome="ok",
        prefill_started_s=0.5,
        prefilled_s=1.0,
        transferred_s=1.5,
        decode_started_s=1.5,
        first_token_s=2.0,
        completed_s=3.0,
    )


def ended(**changed: object) -> RequestEnded:
    note = RequestEnded(
        request_id="r",
        client_request_id="mine",
        endpoint="/v1/completions",
        stream=True,
        received_at=4.0,
        rendered_s=0.9,
        status=200,
        outcome="ok",
        kv_bytes=640,
        kv_bytes_hidden=320,
    )
    return msgspec.structs.replace(note, **changed)


def test_the_gateways_note_completes_it_and_its_times_count_from_the_first_byte() -> None:
    (found,) = timelines([(3.0, SERVED), *OFFLOADED, (8.1, ended())])
    assert (found.client_request_id, found.status, found.stream) == ("mine", 200, True)
    assert found.arrived_at == 1000.0 + 4.0 - 3.0
    assert (found.rendered_s, found.prefill_started_s, found.completed_s) == (0.9, 1.5, 4.0)
    assert (found.kv_bytes, found.kv_bytes_hidden) == (640, 320)


def test_a_retry_leaves_the_last_attempt() -> None:
    alone: list[tuple[float, Entry]] = [
        (7.2, StartDecode("r", 2, "d2", None, 0, 0, Route.DIRECT, "d1 died")),
        (7.5, FailRequest("r", ErrorKind.ENGINE, "broke off")),
    ]
    (found,) = timelines([(0.0, SIMULATED), *OFFLOADED[:-2], *alone])
    assert (found.attempts, found.prefill_engine, found.decode_engine) == (2, None, "d2")
    assert (found.outcome, found.error, found.reason) == ("engine", "broke off", "d1 died")


def test_requests_without_an_end_or_without_a_beginning() -> None:
    refused = ended(request_id="x", outcome="refused", status=400, rendered_s=None)
    batch = ended(why_alone="batch of 2 prompts")
    journal: list[tuple[float, Entry]] = [
        (3.0, SERVED),
        (4.5, refused),
        (5.0, RequestArrived("r", 1, 9)),
        (5.0, StartDecode("r", 1, "d1", None, 0, 0, Route.DIRECT, "short")),
        (6.0, batch),
        (7.0, RequestArrived("s", 7, 9)),
    ]
    first, second, third = timelines(journal)
    assert (first.request_id, first.outcome, first.total_tokens) == ("x", "refused", None)
    assert (second.reason, second.total_tokens) == ("batch of 2 prompts", None)
    assert (third.request_id, third.outcome) == ("s", "unfinished")


def test_a_client_that_left() -> None:
    (found,) = timelines([(0.0, SIMULATED), *OFFLOADED[:2], (5.7, RequestCancelled("r"))])
    assert (found.outcome, found.first_token_s) == ("cancelled", None)
