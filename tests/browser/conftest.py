"""A real browser without a screen: Debian's or Google's Chromium, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator

import pytest

playwright = pytest.importorskip(
    "playwright.async_api", reason="Playwright is not installed: pip install '.[dev]'"
)

NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture
def chromium() -> str:
    """Its path; the test is skipped where there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    return found


@pytest.fixture
async def browser(chromium: str) -> AsyncIterator[object]:
    """One for a test; its pages are its own."""
    async with playwright.async_playwright() as driver:
        started = await driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        await started.close()
