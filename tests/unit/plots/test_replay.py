"""A row per request, a bar per stage."""

from pathlib import Path

import msgspec
import pytest

from prfaas.core.errors import ConfigError
from prfaas.plots import replay
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


def test_requests_that_are_hours_apart_are_drawn_from_their_own_arrivals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = []
    monkeypatch.setattr(replay, "save_figure", lambda figure, _path: figures.append(figure))
    told = Timeline(
        request_id="r", arrived_at=0.0, decode_started_s=0.5, first_token_s=1.0, completed_s=4.0,
        route="direct", outcome="ok",
    )  # fmt: skip
    draw_requests(tmp_path / "r.png", [told, msgspec.structs.replace(told, arrived_at=1e5)])
    (figure,) = figures
    ends = [bar.get_x() + bar.get_width() for bar in figure.axes[0].patches]
    assert max(ends) == pytest.approx(4.0)


def test_none_is_drawn_too_and_a_name_that_is_no_picture_is_refused(tmp_path: Path) -> None:
    draw_requests(tmp_path / "none.png", [])
    with pytest.raises(ConfigError, match=r"\.png"):
        draw_requests(tmp_path / "requests.txt", [])
