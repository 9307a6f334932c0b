"""What a journal says of a request, in words."""

from __future__ import annotations

from prfaas.core.deployment import SchedulerConfig
from prfaas.policies.api import Route
from prfaas.scheduler.commands import (
    CancelDecode,
    CancelPrefill,
    CancelTransfer,
    ErrorKind,
    FailRequest,
    StartDecode,
    StartPrefill,
)
from prfaas.scheduler.events import (
    DecodeFailed,
    EngineDown,
    FirstToken,
    PrefillCompleted,
    PrefillFailed,
    RequestArrived,
    RequestCancelled,
    TransferCompleted,
    TransferFailed,
    TransferProgressed,
)
from prfaas.scheduler.journal import CostInputs, Entry, JournalOpened, RequestEnded
from prfaas.scheduler.stories import Span, spans, stories
from prfaas.scheduler.timelines import Timeline
from prfaas.scheduler.topology import Topology

OPENED = JournalOpened(
    driver="gateway",
    unix_time=1000.0,
    topology=Topology((), (), (), alignment_tokens=1),
    scheduler=SchedulerConfig(),
    costs=CostInputs(),
)
PREFILL = StartPrefill("r", 1, "e1", "d1", "r-1", 0, 64, Route.OFFLOAD, "long")
AGAIN = StartDecode("r", 2, "d1", None, 0, 0, Route.DIRECT, "e1 is down")


def test_every_attempt_is_told_with_its_reason_once() -> None:
    journal: list[tuple[float, Entry]] = [
        (0.0, OPENED),
        (5.0, RequestArrived("r", 70, 9, {"d1": 4})),
        (5.5, PREFILL),
        (5.6, TransferProgressed("r", 1, 0.5)),
        (5.9, EngineDown("other", "gone")),
        (6.0, EngineDown("e1", "it does not answer")),
        (6.0, CancelTransfer("r", 1, "r-1", "e1", "d1")),
        (6.0, AGAIN),
        (7.0, FirstToken("r", 2)),
        (
            8.0,
            RequestEnded(
                request_id="r", client_request_id="mine", endpoint="/v1/completions", stream=True,
                received_at=4.0, status=200, outcome="ok",
            ),
        ),
    ]  # fmt: skip
    (story,) = stories(journal)
    assert story.timeline.client_request_id == "mine"
    assert [(step.since_s, step.words) for step in story.steps] == [
        (1.0, "70 tokens to the scheduler, at most 9 of answer; held already: d1 4"),
        (1.5, "attempt 1, offload: e1 prefills, and tokens 0 to 64 go to d1 (long)"),
        (2.0, "e1 is down: it does not answer"),
        (2.0, "the transfer to d1 is dropped"),
        (2.0, "attempt 2, direct: d1 answers from the prompt alone (e1 is down)"),
        (3.0, "first token"),
        (4.0, "ended: ok, status 200"),
    ]


def test_every_kind_of_entry_of_a_request_has_words() -> None:
    items: list[Entry] = [
        RequestArrived("r", 70, 9),
        PREFILL,
        PrefillCompleted("r", 1),
        PrefillFailed("r", 1, "refused"),
        TransferCompleted("r", 1),
        TransferFailed("r", 1, "cut"),
        AGAIN,
        FirstToken("r", 2),
        DecodeFailed("r", 2, "broke"),
        CancelPrefill("r", 1, "e1"),
        CancelTransfer("r", 1, "r-1", "e1", "d1"),
        CancelDecode("r", 2, "d1"),
        RequestCancelled("r"),
        FailRequest("r", ErrorKind.ENGINE, "every attempt failed"),
    ]
    (story,) = stories([(0.0, OPENED), *((1.0, item) for item in items)])
    assert len(story.steps) == len(items)
    assert story.steps[-1].words == "given up (engine): every attempt failed"
    assert story.timeline.outcome == "unfinished"


def test_a_journal_of_several_runs_tells_each_of_its_own() -> None:
    run: list[tuple[float, Entry]] = [
        (0.0, OPENED),
        (1.0, RequestArrived("r", 70, 9)),
    ]
    first, second = stories([*run, *run])
    assert [len(story.steps) for story in (first, second)] == [1, 1]


def test_spans_overlap_as_the_stages_did() -> None:
    handed = Timeline(
        request_id="r", arrived_at=0.0, prefill_engine="e1", prefill_started_s=0.5,
        prefilled_s=2.0, transfer_first_byte_s=0.75, transferred_s=2.5, decode_started_s=2.5,
        first_token_s=3.0, completed_s=4.0,
    )  # fmt: skip
    assert spans(handed) == [
        Span("wait", 0.0, 0.5),
        Span("prefill", 0.5, 2.0),
        Span("transfer", 0.75, 2.5),
        Span("load", 2.5, 3.0),
        Span("answer", 3.0, 4.0),
    ]
    alone = Timeline(request_id="r", arrived_at=0.0, decode_started_s=0.25, first_token_s=1.0)
    assert [span.stage for span in spans(alone)] == ["wait", "prefill", "answer"]
    assert spans(Timeline(request_id="r", arrived_at=0.0)) == []
