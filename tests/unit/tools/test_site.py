"""The documentation as a site: every page has its place, and generated ones are up to date."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from prfaas.testing.loading import load_script

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
SITE = msgspec.yaml.decode((ROOT / "mkdocs.yml").read_bytes())


def pages(nav: Any) -> Iterator[str]:
    """All files of a navigation."""
    for entry in nav:
        for place in entry.values():
            if isinstance(place, str):
                yield place
            else:
                yield from pages(place)


def test_every_page_has_one_place() -> None:
    placed = list(pages(SITE["nav"]))
    assert len(placed) == len(set(placed))
    there = {path.name for path in DOCS.glob("*.md")} | {"decisions/README.md"}
    assert set(placed) == there


def test_nothing_is_fetched_from_elsewhere() -> None:
    assert SITE["theme"]["font"] is False
    assert "offline" not in SITE["plugins"]  # It has the browser fetch a script.
    assert not {"extra_javascript", "extra_css"} & SITE.keys()


@pytest.mark.slow
def test_it_is_built_without_a_warning_and_asks_no_other_host(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="mkdocs-material is not installed: make docs")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    for page in pages(SITE["nav"]):
        html = (tmp_path / page).with_suffix(".html")
        if html.name == "README.html":
            html = html.with_name("index.html")
        text = html.read_text()
        loaded = re.findall(r'<(?:script|img)[^>]* src="([^"]+)"', text)
        links = re.findall(r'<link rel="(?:stylesheet|icon)"[^>]* href="([^"]+)"', text)
        assert [url for url in loaded + links if "//" in url] == [], page


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="other Pythons wrap help otherwise")
def test_the_command_lines_page_is_what_the_parser_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    tool = load_script(ROOT / "tools" / "verbs_page.py")
    assert tool.PAGE.read_text() == tool.page(), "run tools/verbs_page.py --write"
