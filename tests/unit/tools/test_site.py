"""The documentation as a site: every page has its place, and generated ones are up to date."""

from __future__ import annotations

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


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="other Pythons wrap help otherwise")
def test_the_command_lines_page_is_what_the_parser_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    tool = load_script(ROOT / "tools" / "verbs_page.py")
    assert tool.PAGE.read_text() == tool.page(), "run tools/verbs_page.py --write"
