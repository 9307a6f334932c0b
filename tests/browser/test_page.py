"""The page in a real browser: data arrive, a cut line is red, nobody is shut out, no error."""

from __future__ import annotations

import asyncio
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

from prfaas.testing.mock_deployment import MockDeployment, clear_line

pytestmark = [pytest.mark.slow]


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
    async with deployment.running() as client, locked(browser, deployment, client) as page:
        await page.get_by_label("Operator's key").fill("secret")
        await page.get_by_role("button", name="Open", exact=True).click()
        await shows(page, "#connection", "live")
        await check_accessible(page)
