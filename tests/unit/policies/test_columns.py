"""What stands in the columns is what the engines and lines say."""

from __future__ import annotations

import numpy as np
import pytest

from prfaas.policies.columns import Lines
from prfaas.scheduler.topology import EngineSpec
from prfaas.testing.policy_views import fleet


def test_what_changes_on_an_engine_is_seen() -> None:
    view = fleet()
    before = view.columns
    engine = view.engines["p1"]
    engine.up = False
    engine.book(1000, 3.0, 0.0)
    engine.running = 2
    columns = view.columns
    assert columns is before
    number = columns.number["p1"]
    facts = columns.up, columns.prefills, columns.queued_s, columns.running, columns.decoding
    assert [column[number] for column in facts] == [0, 1, 3.0, 2, 1]
    assert columns.waits_s(1.0)[number] == 2.0
    view.clock.now = 5.0  # It should have been done by now.
    assert columns.waits_s(5.0)[number] == engine.free_at - 5.0 == 2.0


def test_engines_that_come_go_or_change_their_role_are_listed_anew() -> None:
    view = fleet()
    listed = view.columns.local
    assert [view.columns.engines[n].name for n in listed.numbers] == ["p0", "p1"]
    view.engines["d1"].role = "prefill"
    view.cluster("west").sort_roles()
    assert [view.columns.engines[n].name for n in view.columns.local.numbers] == ["p0", "p1", "d1"]
    view.remove_engine(view.engines["p0"])
    assert view.columns.of({"d1": 7, "p0": 9}).tolist() == [0, 0, 0, 7]
    view.add_engine(EngineSpec("p0", "west", "prefill"))
    names = [view.columns.engines[n].name for n in view.columns.local.numbers]
    assert names == ["p1", "d1", "p0"]


def test_a_line_that_is_down_carries_nothing() -> None:
    view = fleet()
    link = view.links["east", "west"]
    link.outstanding_bytes = 1e6
    [[carried_s]] = Lines(view.columns, [2e6], 1e4).carried_s
    assert carried_s == pytest.approx(3.0)
    link.up = False
    lines = Lines(view.columns, [2e6], 1e4)
    assert np.isinf(lines.carried_s).all()
    assert not lines.up.any()
