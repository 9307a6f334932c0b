"""The documentation holds together: links lead somewhere, every decision is in the index."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from prfaas import __version__
from prfaas.core.versions import AGENT_API
from prfaas.engine_socket.messages import PROTOCOL_VERSION
from prfaas.link.protocol import frames
from prfaas.scheduler import journal

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
DECISIONS = ROOT / "docs" / "decisions"


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        found = (page.parent / name).resolve() if name else page
        assert found.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(found), f"{page.name}: {target}"


def test_every_decision_is_in_the_index_with_its_number() -> None:
    index = (DECISIONS / "README.md").read_text()
    rows = dict(re.findall(r"^\| \[(\d+)\]\((\d{4}-[\w-]+\.md)\) \|", index, re.MULTILINE))
    pages = sorted(path.name for path in DECISIONS.glob("0*.md"))
    assert sorted(rows.values()) == pages
    for number, name in rows.items():
        assert int(name[:4]) == int(number)
        assert (DECISIONS / name).read_text().startswith(f"# {number}. ")
    assert len({name[:4] for name in pages}) == len(pages)


def test_every_decision_says_what_was_decided_and_what_follows() -> None:
    for path in DECISIONS.glob("0*.md"):
        text = path.read_text()
        for heading in ("## Context", "## Decision"):
            assert heading in text, f"{path.name}: {heading}"


def test_the_release_has_one_number() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == __version__
    newest = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert __version__ in newest[:2]
    assert set(newest[:1]) <= {"Unreleased", __version__}


def test_the_upgrade_page_says_what_the_release_speaks() -> None:
    page = (ROOT / "docs" / "fleet.md").read_text()
    said = dict(re.findall(r"^\| ([^|]+) \| (\d+) \|", page, re.MULTILINE))
    assert {name: int(number) for name, number in said.items()} == {
        "agents: the KV link": frames.VERSION,
        "gateways and agents: HTTP": AGENT_API,
        "an engine and its agent": PROTOCOL_VERSION,
        "a journal and who reads it": journal.VERSION,
    }
    assert f"What release {__version__.rsplit('.', 1)[0]} speaks" in page
