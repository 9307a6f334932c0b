"""Make the pictures of docs/page.md: the page in a headless Chromium, before mock engines.

``python tools/page_screenshots.py [--into docs/pictures] [--seconds 25] [JOURNAL ...]``. Needs
Chromium and the development dependencies. Nothing is drawn by hand: what is shown is a real gateway
under traffic, whose line is cut for one picture; journals that are named are opened and compared.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from playwright.async_api import async_playwright

from prfaas.testing.mock_deployment import MockDeployment, clear_line

DESK, PHONE = {"width": 1280, "height": 860}, {"width": 390, "height": 844}
LINE_BYTES_PER_S = 25e6


async def main(into: Path, seconds: float, journals: list[Path]) -> None:
    """Write the pictures."""
    deployment = MockDeployment(second_prefill=True)
    for engine in deployment.engines.values():
        engine.prefill_takes_s, engine.takes_s = 0.5, 0.08
    async with deployment.running() as client, async_playwright() as driver:
        await deployment.ready()
        traffic = asyncio.ensure_future(_traffic(deployment, client))
        path = shutil.which("chromium") or shutil.which("google-chrome")
        browser = await driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            await _pictures(browser, deployment, f"{client._base_url}", into, seconds, journals)
        finally:
            traffic.cancel()
            with suppress(asyncio.CancelledError):
                await traffic
            await browser.close()


async def _pictures(
    browser: Any,
    deployment: MockDeployment,
    url: str,
    into: Path,
    seconds: float,
    files: list[Path],
) -> None:
    page = await browser.new_page(viewport=DESK, device_scale_factor=1)
    await page.goto(f"{url.rstrip('/')}/ui/")
    await page.wait_for_timeout(1000 * seconds)
    await page.screenshot(path=into / "page-light.png")
    await page.locator("#requests").scroll_into_view_if_needed()
    await page.screenshot(path=into / "page-requests.png")
    dark = await browser.new_page(viewport=DESK, color_scheme="dark")
    await dark.goto(f"{url.rstrip('/')}/ui/")
    phone = await browser.new_page(viewport=PHONE, color_scheme="dark")
    await phone.goto(f"{url.rstrip('/')}/ui/")
    await phone.wait_for_timeout(3000)
    await phone.screenshot(path=into / "page-phone.png")
    deployment.agents["east-agent"].links = [clear_line("west-agent", connections=0)]
    await dark.locator("path.flow.cut").wait_for(state="attached")
    await dark.wait_for_timeout(2000)
    await dark.screenshot(path=into / "page-cut.png")
    if files:
        await page.set_input_files("#file", [str(file) for file in files])
        await page.locator("#compare-table tbody").wait_for()
        await page.locator("#compare").scroll_into_view_if_needed()
        await page.wait_for_timeout(500)
        await page.screenshot(path=into / "page-compare.png")


async def _traffic(deployment: MockDeployment, client: aiohttp.ClientSession) -> None:
    """Prompts of many lengths, and a line that carries now more, now less."""
    draw, agent = random.Random(7), deployment.agents["east-agent"]
    async with asyncio.TaskGroup() as group:
        while True:
            group.create_task(_ask(client, int(draw.lognormvariate(3.8, 0.9)) + 5))
            share = draw.uniform(0.3, 0.8)
            if agent.links[0].connections:
                state = clear_line("west-agent")
                goodput = share * LINE_BYTES_PER_S
                agent.links = [
                    msgspec.structs.replace(state, goodput_bytes_per_s=goodput, utilisation=share)
                ]
            await asyncio.sleep(draw.expovariate(3.0))


async def _ask(client: aiohttp.ClientSession, length: int) -> None:
    body = {"model": "mock-model", "prompt": "x" * length, "max_tokens": 5, "stream": True}
    with suppress(aiohttp.ClientError):
        async with client.post("/v1/completions", json=body) as answer:
            await answer.read()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--into", type=Path, default=Path("docs/pictures"))
    parser.add_argument("--seconds", type=float, default=25.0)
    parser.add_argument("journals", type=Path, nargs="*")
    asked = parser.parse_args()
    asyncio.run(main(asked.into, asked.seconds, asked.journals))
