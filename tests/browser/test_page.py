"""The page in a real browser: data arrive, a cut line is red, nobody is shut out, no error."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from prfaas.core.deployment import SchedulerConfig
from prfaas.scheduler.events import EngineDown, LinkStateChanged
from prfaas.scheduler.journal import CostInputs, Entry, JournalOpened, encode
from prfaas.scheduler.topology import ClusterSpec, EngineSpec, LinkSpec, Topology
from prfaas.testing.mock_deployment import MockDeployment, clear_line

pytestmark = [pytest.mark.slow]

WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
SERIOUS = {"serious", "critical"}


@asynccontextmanager
async def opened(browser: Any, client: aiohttp.ClientSession, **kind: Any) -> AsyncIterator[Any]:
    """The page of a gateway; at the end nothing may have gone wrong in it."""
    context = await browser.new_context(viewport=WIDE, **kind)
    page = await context.new_page()
    wrong: list[str] = []
    page.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    await page.goto(f"{str(client._base_url).rstrip('/')}/ui")
    yield page
    await context.close()
    assert not wrong


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
    opened_as = JournalOpened(
        driver="simulator",
        unix_time=None,
        topology=Topology(tuple(clusters), tuple(engines), tuple(links), 16),
        scheduler=SchedulerConfig(policy="auto"),
        costs=CostInputs(),
    )
    entries: list[tuple[float, Entry]] = [(0.0, opened_as)]
    entries += [(60.0, LinkStateChanged(k.source, k.target, True, 1.25e9, 0.5)) for k in links]
    entries += [(90.0, EngineDown(f"far-7-e{i}", "no answer")) for i in range(50)]
    path.write_bytes(b"".join(encode(at, entry) for at, entry in entries))


async def ask(client: aiohttp.ClientSession, length: int) -> None:
    body = {"model": "mock-model", "prompt": "x" * length, "max_tokens": 5, "stream": True}
    async with client.post("/v1/completions", json=body) as answer:
        await answer.read()


async def shows(page: Any, selector: str, text: str) -> None:
    """Wait until an element says so."""
    await page.locator(selector).filter(has_text=text).first.wait_for(state="attached")


async def check_accessible(page: Any) -> None:
    """axe-core finds nothing serious."""
    axe = pytest.importorskip("axe_playwright_python.async_playwright").Axe()
    found = (await axe.run(page)).response["violations"]
    grave = [
        (v["id"], [n["html"][:120] for n in v["nodes"]]) for v in found if v["impact"] in SERIOUS
    ]
    assert not grave


async def check_fits(page: Any) -> None:
    """Nothing sticks out at the side."""
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")


async def test_an_idle_deployment_is_calm(browser: Any) -> None:
    deployment = MockDeployment()
    async with deployment.running() as client, opened(browser, client) as page:
        await deployment.ready()
        await shows(page, "#connection", "live")
        await shows(page, "#headline", "nobody asks")
        await shows(page, ".cluster h3", "east")
        await check_accessible(page)


async def test_requests_arrive_as_they_end(browser: Any) -> None:
    deployment = MockDeployment()
    async with deployment.running() as client:
        await deployment.ready()
        await ask(client, 60)  # Before the page is opened: it is in the history.
        async with opened(browser, client) as page:
            await shows(page, "#percentiles", "offloaded")
            await ask(client, 10)
            await shows(page, "#percentiles", "local prefill")
            await shows(page, "#lengths", "threshold 40")
            assert await page.locator("#requests li").count() == 2
            assert await page.locator("#requests .part.transfer").count() == 2


async def test_a_request_under_way_is_drawn(browser: Any) -> None:
    deployment = MockDeployment()
    async with deployment.running() as client, opened(browser, client) as page:
        await deployment.ready()
        gate = deployment.engines["e1"].prefill_gate
        gate.clear()
        asking = asyncio.ensure_future(ask(client, 60))
        await shows(page, "#requests .live", "offloaded")
        await shows(page, ".cluster .facts", "1 of 1 prefilling")
        gate.set()
        await asking
        await page.locator("#requests .live").wait_for(state="detached")


async def test_a_line_that_is_cut_turns_red_and_is_said(browser: Any) -> None:
    deployment = MockDeployment()
    agent = deployment.agents["east-agent"]
    async with deployment.running() as client, opened(browser, client) as page:
        await deployment.ready()
        await page.locator("path.flow.clear").wait_for(state="attached")
        agent.links = [clear_line("west-agent", connections=0)]
        await page.locator("path.flow.cut").wait_for(state="attached")
        await shows(page, "#headline", "The line east to west is down")
        await shows(page, "#news", "The line east to west is down")
        await shows(page, "#status", "is down")
        cut, bad = await page.evaluate(
            """() => [getComputedStyle(document.querySelector('path.flow.cut')).stroke,
                      getComputedStyle(document.querySelector('#headline')).color]"""
        )
        assert cut == bad == "rgb(192, 38, 45)"
        await check_accessible(page)
        agent.links = [clear_line("west-agent")]
        await page.locator("path.flow.clear").wait_for(state="attached")
        await shows(page, "#news", "is up again")


async def test_a_cluster_that_is_down_is_said(browser: Any) -> None:
    deployment = MockDeployment()
    async with deployment.running() as client, opened(browser, client) as page:
        await deployment.ready()
        await deployment.engines["e1"].stop()
        await shows(page, "#headline", "Cluster east is down")
        await page.locator(".cluster.down").wait_for()
        await check_accessible(page)


CACHES_WITH_LONG_FIGURES = """() => {
  const long = ["", "agents' memory for hand-offs", "0% of 1,048K tokens", "16% of 61.5K tokens"];
  for (const row of document.querySelectorAll("#caches tbody tr"))
    [...row.children].forEach((cell, at) => { if (at) cell.textContent = long[at]; });
  const around = document.querySelector("#caches").parentElement;
  return [around.querySelectorAll("td").length > 0, around.scrollWidth <= around.clientWidth];
}"""


async def test_figures_of_caches_are_not_cut_beside_the_events(browser: Any) -> None:
    deployment = MockDeployment()
    async with deployment.running() as client, opened(browser, client) as page:
        await deployment.ready()
        await shows(page, "#connection", "live")
        await shows(page, "#caches", "west")
        await page.set_viewport_size(WIDE)
        assert await page.evaluate(CACHES_WITH_LONG_FIGURES) == [True, True]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_fits_a_phone_in_light_and_dark(browser: Any, scheme: str) -> None:
    deployment = MockDeployment()
    async with deployment.running() as client:
        await deployment.ready()
        await asyncio.gather(*(ask(client, 5 * n) for n in range(1, 30)))
        async with opened(browser, client, color_scheme=scheme) as page:
            await shows(page, "#connection", "live")
            for size in (
                PHONE,
                {"width": 768, "height": 900},
                WIDE,
                {"width": 1920, "height": 1080},
            ):
                await page.set_viewport_size(size)
                await check_fits(page)
            await page.set_viewport_size(PHONE)
            await check_accessible(page)
            # Where nobody chose, the page follows the system, and the button turns it.
            assert await page.evaluate("document.documentElement.dataset.theme") == scheme
            await page.get_by_role("button", name="Light" if scheme == "dark" else "Dark").click()
            assert await page.evaluate("document.documentElement.dataset.theme") != scheme


async def test_the_keyboard_reaches_everything(browser: Any) -> None:
    deployment = MockDeployment()
    async with deployment.running() as client, opened(browser, client) as page:
        await deployment.ready()
        await page.locator("#slider:enabled").wait_for()
        reached = set()
        for _ in range(25):
            await page.keyboard.press("Tab")
            reached.add(
                await page.evaluate("document.activeElement.id || document.activeElement.tagName")
            )
        assert {"file", "theme", "slider", "live", "news", "SUMMARY"} <= reached


async def test_a_key_opens_it(browser: Any, tmp_path: Path) -> None:
    deployment = MockDeployment()
    async with deployment.running() as client:
        deployment.gateway.access.operators.replace(["secret"])
        context = await browser.new_context(viewport=WIDE)
        page = await context.new_page()
        await page.goto(f"{str(client._base_url).rstrip('/')}/ui")
        await shows(page, "#key-why", "operator")
        await page.get_by_label("Operator's key").fill("secret")
        await page.get_by_role("button", name="Open", exact=True).click()
        await shows(page, "#connection", "live")
        await check_accessible(page)
        await context.close()


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
