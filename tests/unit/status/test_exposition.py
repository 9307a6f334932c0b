"""Reading a Prometheus page."""

from __future__ import annotations

import pytest

from prfaas.status.exposition import MetricsPage

PAGE = """
# TYPE prfaas_pool_slots gauge
prfaas_pool_slots{state="free"} 3.0
prfaas_pool_slots{state="held"} 1.0
# TYPE requests counter
requests_total{route="pd",outcome="ok"} 2.0
requests_total{route="pd",outcome="error"} 1.0
"""


def test_numbers_by_label_and_their_sum() -> None:
    page = MetricsPage(PAGE)
    assert page.by("prfaas_pool_slots", "state") == {"free": 3, "held": 1}
    assert page.value("prfaas_pool_slots", state="held") == 1
    assert page.value("requests_total", route="pd") == 3
    assert page.by("requests_total", "route", "outcome") == {"pd ok": 2, "pd error": 1}


def test_an_empty_page_says_nothing() -> None:
    assert MetricsPage("").value("anything") is None
    assert MetricsPage("").by("anything", "label") == {}


@pytest.mark.parametrize(
    "nonsense", ['a{b="x', "}}{{ \0", "a b", "a NaN\n", "a +Inf\n", "a -Inf 1\n"]
)
def test_nonsense_says_nothing(nonsense: str) -> None:
    page = MetricsPage(nonsense)
    assert page.value("a") is None
    assert page.by("a", "b") == {}


def test_a_sum_that_is_no_number_says_nothing() -> None:
    assert MetricsPage('a{b="1"} 1e308\na{b="2"} 1e308\n').value("a") is None


def test_what_nothing_can_be_computed_with_says_nothing() -> None:
    """Sizes are products of two numbers, which one process alone could make too large to show."""
    page = MetricsPage('a{b="1"} 1e308\na{b="2"} -1e308\na{b="3"} 2\n')
    assert (page.value("a"), page.by("a", "b")) == (2, {"3": 2})
