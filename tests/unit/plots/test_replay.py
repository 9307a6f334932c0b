"""A row per request, a bar per stage."""

from pathlib import Path

import pytest

from prfaas.core.errors import ConfigError
from prfaas.plots.replay import draw_requests
from prfaas.scheduler.timelines import Timeline


def test_every_stage_is_named_once_and_every_request_has_its_row(tmp_path: Path) -> None:
    requests = [
        Timeline(
            request_id=name, arrived_at=at, prefill_engine="e1", prefill_started_s=0.5,
            prefilled_s=2.0, transferred_s=2.5, decode_started_s=2.5, first_token_s=3.0,
            completed_s=4.0, route="offload", outcome=outcome,
        )
        for name, at, outcome in (("a-request", 10.0, "ok"), ("another", 11.0, "engine"))
    ]  # fmt: skip
    path = tmp_path / "requests.svg"
    draw_requests(path, requests)
    drawn = path.read_text()
    for words in ("a-request  offload", "another  offload", "prefill", "transfer", "answer"):
        assert drawn.count(f"<!-- {words} -->") == 1


def test_none_is_drawn_too_and_a_name_that_is_no_picture_is_refused(tmp_path: Path) -> None:
    draw_requests(tmp_path / "none.png", [])
    with pytest.raises(ConfigError, match=r"\.png"):
        draw_requests(tmp_path / "requests.txt", [])
