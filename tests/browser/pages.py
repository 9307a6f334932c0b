"""What tests of the page do with it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from prfaas.testing.mock_deployment import MockDeployment

WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


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


@asynccontextmanager
async def locked(
    browser: Any, deployment: MockDeployment, client: aiohttp.ClientSession
) -> AsyncIterator[Any]:
    """The page of a gateway that asks for an operator's key, which is "secret"."""
    deployment.gateway.access.operators.replace(["secret"])
    context = await browser.new_context(viewport=WIDE)
    page = await context.new_page()
    await page.goto(f"{str(client._base_url).rstrip('/')}/ui")
    await shows(page, "#key-why", "operator")
    yield page
    await context.close()


async def ask(client: aiohttp.ClientSession, length: int) -> None:
    body = {"model": "mock-model", "prompt": "x" * length, "max_tokens": 5, "stream": True}
    async with client.post("/v1/completions", json=body) as answer:
        await answer.read()


async def shows(page: Any, selector: str, text: str) -> None:
    """Wait until an element says so. Raises AssertionError with what it says instead."""
    playwright = pytest.importorskip("playwright.async_api")
    element = page.locator(selector)
    try:
        await element.filter(has_text=text).first.wait_for(state="attached")
    except playwright.TimeoutError:
        said = await element.all_text_contents()
        raise AssertionError(f"{selector} says {said}, not {text!r}") from None


async def check_accessible(page: Any) -> None:
    """axe-core finds nothing, also nothing small."""
    axe = pytest.importorskip("axe_playwright_python.async_playwright").Axe()
    found = (await axe.run(page)).response["violations"]
    assert [(v["id"], [n["html"][:120] for n in v["nodes"]]) for v in found] == []


async def check_fits(page: Any) -> None:
    """Nothing sticks out at the side, once what is drawn has the size of its place."""
    await page.wait_for_function("document.documentElement.scrollWidth <= innerWidth")
