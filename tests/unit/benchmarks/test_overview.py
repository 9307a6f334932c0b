"""Ratios of a run, beside stored ones; and the page that is made of these."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from benchmarks.overview import page, rows
from benchmarks.overview.__main__ import PARTS, Part, run
from benchmarks.overview.page import Taken
from benchmarks.overview.rows import Row

WRITE = (
    "t = {{'carried': {{'p50_ms': 2}}, 'direct': {{'p50_ms': 1}}}}; "
    "import json; open('{}', 'w').write(json.dumps({{'request': t, 'event': t}}))"
)


def taken(*found: Row) -> Taken:
    return Taken("2026-01-01", "a machine", 2, 0.5, {"Python": "3"}, 1.0, found)


def test_the_page_of_the_documentation_is_what_is_stored() -> None:
    stored = page.read(page.STORED)
    assert stored
    assert Path("docs/performance.md").read_text() == page.markdown(stored)


def test_a_gateway_is_set_beside_whoever_does_the_same() -> None:
    def row(router: str, route: str, tokens: int, cpu: float) -> dict[str, Any]:
        figures = {"cpu_ms_per_request": cpu, "added_p50_ms": 1.0}
        return {"router": router, "route": route, "prompt_tokens": tokens, **figures}

    result = [
        row("prfaas", "direct", 200, 0.6),
        row("aiohttp pass-through", "direct", 200, 0.3),
        row("prfaas", "offload", 2000, 3.0),
        row("prfaas", "direct", 2000, 0.9),
        row("aiohttp pass-through", "direct", 2000, 0.3),
        row("vllm-router", "direct", 2000, 0.5),
        row("vllm-router", "prefill and decode", 2000, 2.0),
        {"router": "prfaas", "route": "by length", "event_cpu_us": 30.0},
        {"router": "vllm-router", "route": "direct", "event_cpu_us": 20.0},
    ]
    found = list(rows.gateway(result))
    assert [(row.beside, round(row.ratio, 2), row.reached) for row in found] == [
        ("aiohttp pass-through", 2.0, False),
        ("vllm-router, prefill and decode", 1.5, True),
        ("vllm-router, prefill and decode", 1.0, None),
        ("limit", 0.67, True),
        ("aiohttp pass-through", 3.0, False),
        ("limit", 0.4, True),
    ]


@pytest.mark.parametrize(("now", "told"), [(1.0, False), (1.2, False), (2.0, True), (0.2, False)])
@pytest.mark.parametrize("more", [False, True])
def test_only_a_ratio_that_is_much_worse_is_told(now: float, told: bool, more: bool) -> None:
    def of(ratio: float) -> page.Run:
        return {"a": taken(Row("a", "speed", ratio, "s", "peer", 1.0, more=more))}

    found = page.worse(of(1 / now if more else now), of(1.0))
    assert bool(found) is told
    assert not page.worse({"a": taken(Row("a", "new", 9.0, "s", "peer", 1.0))}, of(1.0))


def test_a_part_runs_by_itself_and_one_without_results_has_failed(tmp_path: Path) -> None:
    result = tmp_path / "found.json"
    found = run("a", Part(("timeit", "-n", "1", WRITE.format(result)), result, rows.carry), None)
    assert found.failed is None
    assert [row.ratio for row in found.rows] == [2.0, 2.0]
    failed = run("b", Part(("timeit", "-n", "1"), result, rows.carry), None)
    assert failed.failed == "status 0, and no results"
    assert not any(" " in name for name in PARTS)  # `make bench PARTS=...` splits there.


def test_a_run_is_read_as_it_was_written_and_drawn(tmp_path: Path) -> None:
    found = taken(
        Row("a", "speed", 2.0, "GB/s", "<peer>", 1.0, 0.5, more=True),
        Row("a", "time", 2.0, "s", "limit", 1.0, 1.0),
    )
    failed = Taken("2026-01-01", "m", 2, 0.5, {}, 1.0, failed="status 1, and no results")
    both = {"a": found, "b": failed}
    (tmp_path / "all.json").write_bytes(msgspec.json.encode(both))
    assert page.read(tmp_path / "all.json") == both
    assert page.read(tmp_path / "none.json") == {}
    text = page.markdown(both)
    assert "| speed | 2 GB/s | <peer> | 1 GB/s | 2.00 | at least 0.5, reached |" in text
    assert "**not reached**" in text
    assert "It failed: status 1" in text
    page.draw(both, tmp_path / "all.html")
    assert "&lt;peer&gt;" in (tmp_path / "all.html").read_text()
    assert (tmp_path / "all.svg").stat().st_size > 1000
