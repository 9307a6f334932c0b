"""Journals that are opened on the page, beside what is live and beside each other."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from tests.browser.pages import (
    PHONE,
    WIDE,
    ask,
    check_accessible,
    check_fits,
    locked,
    opened,
    shows,
)

from prfaas.core.deployment import SchedulerConfig
from prfaas.policies.api import Route
from prfaas.scheduler.commands import FailRequest, StartDecode, StartPrefill
from prfaas.scheduler.events import (
    EngineDown,
    FirstToken,
    LinkStateChanged,
    RequestArrived,
    RequestCompleted,
    TopologyChanged,
)
from prfaas.scheduler.journal import CostInputs, Entry, JournalOpened, encode
from prfaas.scheduler.topology import ClusterSpec, EngineSpec, LinkSpec, Topology
from prfaas.testing.mock_deployment import MockDeployment

pytestmark = [pytest.mark.slow]

NEAR = ClusterSpec("near", "pd")
DECODE = EngineSpec("d", "near", "decode")
FAR = ClusterSpec("far", "prfaas")
PREFILL = EngineSpec("p", "far", "prefill")
LINE = LinkSpec("far", "near", 1.25e9, 0.03)
BOTH = Topology((FAR, NEAR), (PREFILL, DECODE), (LINE,), 16)


def began(topology: Topology = BOTH, **scheduler: Any) -> JournalOpened:
    return JournalOpened(
        driver="simulator",
        unix_time=None,
        topology=topology,
        scheduler=SchedulerConfig(**(scheduler or {"policy": "auto"})),
        costs=CostInputs(),
    )


def write(path: Path, entries: list[tuple[float, Entry]]) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"".join(encode(at, entry) for at, entry in entries))
    return str(path)


def answered(number: int, at: float, tokens: int) -> list[tuple[float, Entry]]:
    """A request that the decode engine answers alone, in two seconds."""
    name = f"r{number}"
    return [
        (at, RequestArrived(name, tokens, 8)),
        (at, StartDecode(name, 1, "d", None, 0, 0, Route.DIRECT, "short")),
        (at + 1, FirstToken(name, 1)),
        (at + 2, RequestCompleted(name, 1, 8)),
    ]


def write_small(path: Path, tokens: int = 100) -> str:
    """A journal of a few requests."""
    requests = [entry for n in range(3) for entry in answered(n, 10.0 * n + 1, tokens)]
    return write(path, [(0.0, began()), *requests])


def write_large(path: Path) -> None:
    """A journal of twenty clusters with fifty engines each, of which one cluster goes down."""
    clusters = [ClusterSpec(f"far-{i}", "prfaas") for i in range(10)]
    clusters += [ClusterSpec(f"near-{i}", "pd") for i in range(10)]
    engines = [
        EngineSpec(f"{cluster.name}-e{i}", cluster.name, role, machine=f"{cluster.name}-m{i // 8}")
        for cluster in clusters
        for i in range(50)
        for role in ["prefill" if cluster.kind == "prfaas" or i < 15 else "decode"]
    ]
    links = [
        LinkSpec(f"far-{i}", f"near-{(i + d) % 10}", 1.25e9, 0.03)
        for i in range(10)
        for d in (0, 1, 2)
    ]
    fleet = Topology(tuple(clusters), tuple(engines), tuple(links), 16)
    entries: list[tuple[float, Entry]] = [(0.0, began(fleet))]
    entries += [(60.0, LinkStateChanged(k.source, k.target, True, 1.25e9, 0.5)) for k in links]
    entries += [(90.0, EngineDown(f"far-7-e{i}", "no answer")) for i in range(50)]
    write(path, entries)


async def test_a_journal_is_drawn_like_what_is_live(browser: Any, tmp_path: Path) -> None:
    journal = tmp_path / "events.jsonl"
    deployment = MockDeployment(journal_file=journal)
    async with deployment.running() as client:
        await deployment.ready()
        await asyncio.gather(*(ask(client, 8 * n) for n in range(1, 13)))
        async with opened(browser, client) as page:
            await shows(page, "#percentiles", "offloaded")
            await page.locator("#requests li").nth(11).wait_for()
            live = await page.locator("#percentiles tbody").inner_text()
            rows = await page.locator("#requests li .request-what").all_inner_texts()
            await page.set_input_files("#file", str(journal))
            await shows(page, "#sources", "events.jsonl")
            assert await page.locator("#percentiles tbody").inner_text() == live
            assert sorted(
                await page.locator("#requests li .request-what").all_inner_texts()
            ) == sorted(rows)
            # Beside what is live it is compared.
            await shows(page, "#compare-table", "TTFT p90")
            await check_accessible(page)


async def test_a_thousand_engines_of_another_deployment(browser: Any, tmp_path: Path) -> None:
    journal = tmp_path / "large.jsonl"
    write_large(journal)
    async with MockDeployment().running() as client, opened(browser, client) as page:
        await shows(page, "#connection", "live")
        await shows(page, "#map", "west")
        await page.set_input_files("#file", str(journal))
        await shows(page, "#about", "20 clusters, 1,000 engines")
        await shows(page, "#headline", "Cluster far-7 is down: none of its 50 engines answers")
        await shows(page, "#map-words", "30 lines")
        assert await page.locator(".dot").count() == 1000
        assert await page.locator(".label:visible").count() == 5
        for size in (WIDE, PHONE):
            await page.set_viewport_size(size)
            await check_fits(page)
            await check_accessible(page)
        # Back to before it failed, by keyboard, and forth again.
        await page.locator("#slider").focus()
        await page.keyboard.press("Home")
        await page.locator(".cluster.down").wait_for(state="detached")
        await page.keyboard.press("End")
        await page.locator(".cluster.down").wait_for()


async def test_what_is_no_journal_is_refused_in_words(browser: Any, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"some": "thing"}) + "\n")
    deployment = MockDeployment()
    async with deployment.running() as client, opened(browser, client) as page:
        await shows(page, "#connection", "live")
        await page.set_input_files("#file", str(other))
        await shows(page, "#status", "line 1 is not of a journal")


async def test_text_from_outside_is_never_markup(browser: Any, tmp_path: Path) -> None:
    journal = tmp_path / "events.jsonl"
    deployment = MockDeployment(journal_file=journal)
    async with deployment.running() as client:
        await deployment.ready()
    hostile = "<img src=x onerror=alert(1)>"
    with journal.open("a") as lines:
        at = json.loads(journal.read_text().splitlines()[-1])["at"]
        entry = {"at": at, "type": "EngineDown", "engine": hostile, "reason": hostile}
        lines.write(json.dumps(entry) + "\n")
    async with MockDeployment().running() as client, opened(browser, client) as page:
        await page.set_input_files("#file", str(journal))
        await shows(page, "#news", hostile)
        assert await page.locator("main img").count() == 0


async def test_what_is_live_stays_beside_files(browser: Any, tmp_path: Path) -> None:
    one, other = (write_small(tmp_path / name) for name in ("a.jsonl", "b.jsonl"))
    deployment = MockDeployment()
    async with deployment.running() as client, opened(browser, client) as page:
        await deployment.ready()
        await shows(page, "#headline", "nobody asks")
        for path in (one, other):
            await page.set_input_files("#file", path)
            await shows(page, "#status", f"{Path(path).name} is shown")
        names = page.locator("#sources [aria-pressed]")
        assert await names.all_inner_texts() == ["this deployment", "a.jsonl", "b.jsonl"]
        # The two files are compared.
        heads = await page.locator("#compare-table thead tr > *").all_inner_texts()
        assert heads == ["", "a.jsonl", "b.jsonl", "change"]
        await page.get_by_role("button", name="this deployment").click()
        await shows(page, "#about", "2 clusters")
        await shows(page, "#map", "west")
        for name in ("b.jsonl", "a.jsonl"):
            await page.get_by_role("button", name=f"Close {name}").click()
        await page.locator("#sources").wait_for(state="hidden")
        await page.locator("#compare").wait_for(state="hidden")
        await shows(page, "#headline", "nobody asks")


async def test_what_only_the_second_has_failed_at_is_worse(browser: Any, tmp_path: Path) -> None:
    one, other = (tmp_path / name for name in ("a.jsonl", "b.jsonl"))
    requests = [(0.0, began()), *answered(1, 1.0, 100), *answered(2, 5.0, 100)]
    refused = FailRequest("r2", "overloaded", "too many")
    paths = [write(one, requests), write(other, [*requests[:-3], (6.0, refused)])]
    async with MockDeployment().running() as client, opened(browser, client) as page:
        await shows(page, "#connection", "live")
        await page.set_input_files("#file", paths)
        rows = page.locator("#compare-table tbody tr")
        failed = rows.filter(has_text="not answered")
        await failed.filter(has_text="1").wait_for()
        assert (await failed.locator("> *").all_inner_texts())[1:] == ["0", "1", "more, worse"]
        assert await failed.locator(".worse").count() == 1
        same = rows.filter(has_text="TTFT p50")
        assert (await same.locator("> *").all_inner_texts())[-1] == "same"


async def test_files_of_one_name_are_told_apart(browser: Any, tmp_path: Path) -> None:
    paths = [write_small(tmp_path / f"{n}" / "events.jsonl", tokens=100 + n) for n in range(3)]
    deployment = MockDeployment()
    async with deployment.running() as client, opened(browser, client) as page:
        await shows(page, "#connection", "live")
        names = page.locator("#sources [aria-pressed]")
        called = ("events.jsonl", "events.jsonl (2)", "events.jsonl")
        for path, name in zip(paths, called, strict=True):
            await page.set_input_files("#file", path)
            await shows(page, "#status", f"{name} is shown")
        assert sorted(await names.all_inner_texts())[:2] == ["events.jsonl", "events.jsonl (2)"]
        await page.get_by_role("button", name="Close events.jsonl", exact=True).click()
        assert await names.all_inner_texts() == ["this deployment", "events.jsonl (2)"]
        # The same again is another one.
        await page.set_input_files("#file", paths[0])
        await page.get_by_role("button", name="Close events.jsonl", exact=True).click()
        assert await names.all_inner_texts() == ["this deployment", "events.jsonl (2)"]


async def test_what_is_closed_leaves_no_figures(browser: Any, tmp_path: Path) -> None:
    path = write_small(tmp_path / "events.jsonl")
    deployment = MockDeployment()
    async with deployment.running() as client, locked(browser, deployment, client) as page:
        await page.set_input_files("#file", path)
        await shows(page, "#percentiles", "decode alone")
        await shows(page, "#map", "near")
        await page.get_by_role("button", name="Close events.jsonl").click()
        await shows(page, "#headline", "Nothing to show yet")
        await shows(page, "#map", "No deployment is shown")
        for panel in ("numbers", "lengths", "stages", "percentiles", "requests", "caches", "news"):
            assert await page.locator(f"#{panel}").inner_text() == "", panel


@pytest.mark.parametrize(
    ("said", "shown"), [("16K", "16K"), (16384, "16K"), ("1.5 K", "1,536"), ("0", "0")]
)
async def test_a_threshold_is_what_its_file_says(
    said: Any, shown: str, browser: Any, tmp_path: Path
) -> None:
    entries = [(0.0, began(policy="threshold", threshold=said)), *answered(1, 1.0, 20_000)]
    path = write(tmp_path / "events.jsonl", entries)
    async with MockDeployment().running() as client, opened(browser, client) as page:
        await shows(page, "#connection", "live")
        await page.set_input_files("#file", path)
        marked = page.locator("#lengths .mark-text")
        await marked.filter(has_text="threshold").wait_for(state="attached")
        assert await marked.all_text_contents() == [f"threshold {shown}"]


async def test_what_a_killed_gateway_left_is_not_under_way_in_its_next_run(
    browser: Any, tmp_path: Path
) -> None:
    computing = StartPrefill("r", 1, "p", "d", "t", 0, 90, Route.OFFLOAD, "long")
    entries: list[tuple[float, Entry]] = [
        (0.0, began()),
        (1.0, RequestArrived("r", 100, 8)),
        (1.0, computing),
        (9.0, began()),
        *answered(1, 10.0, 50),
    ]
    path = write(tmp_path / "events.jsonl", entries)
    async with MockDeployment().running() as client, opened(browser, client) as page:
        await shows(page, "#connection", "live")
        await page.set_input_files("#file", path)
        await shows(page, "#percentiles", "decode alone")
        await page.locator('.dot[title="p: prefill, idle"]').wait_for(state="attached")
        await shows(page, "article[aria-label='Cluster far'] .facts", "0 of 1 prefilling")


async def test_a_long_journal_has_figures_at_every_moment(browser: Any, tmp_path: Path) -> None:
    day_s = 86_400
    entries: list[tuple[float, Entry]] = [(0.0, began())]
    for number, at in enumerate(range(1000, 5 * day_s, 1000)):
        entries += answered(number, float(at), 100)
    path = write(tmp_path / "events.jsonl", entries)
    async with MockDeployment().running() as client, opened(browser, client) as page:
        await shows(page, "#connection", "live")
        await page.set_input_files("#file", path)
        await shows(page, "#about", "2 clusters")
        heads = await page.evaluate(
            """() => [0.21, 0.33, 0.5, 0.77, 0.9].map((share) => {
              const slider = document.querySelector("#slider");
              slider.value = Math.floor(share * slider.max) + 77;
              slider.dispatchEvent(new Event("input"));
              return document.querySelector("#headline").textContent;
            })"""
        )
        assert "Nothing to show yet" not in heads


async def test_figures_are_of_the_fleet_that_is_shown(browser: Any, tmp_path: Path) -> None:
    """A cluster that joins in front of another has not done what that one did before."""
    alone = Topology((NEAR,), (DECODE,), (), 16)
    entries: list[tuple[float, Entry]] = [(0.0, began(alone)), *answered(1, 20.0, 100)]
    entries += [(25.0, TopologyChanged(BOTH)), *answered(2, 26.0, 100)]
    path = write(tmp_path / "events.jsonl", entries)
    async with MockDeployment().running() as client, opened(browser, client) as page:
        await shows(page, "#connection", "live")
        await page.set_input_files("#file", path)
        await shows(page, "#stages", "decode in near")
        assert sorted(await page.locator("#stages .stage-name").all_text_contents()) == [
            "decode in near",
            "prefill in far",
            "the line far to near",
        ]
