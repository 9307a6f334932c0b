"""`make oldest`: which versions it tries."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from prfaas.testing.loading import load_script

ROOT = Path(__file__).parents[3]
OLDEST = load_script(ROOT / "tools" / "oldest.py")


def project(*needs: str) -> dict[str, Any]:
    return {
        "dependencies": list(needs),
        "optional-dependencies": {"plot": ["matplotlib>=3.9"], "otel": []},
    }


def test_each_dependency_is_tried_at_the_oldest_version_that_is_named() -> None:
    found = OLDEST.floors(
        project("aiohttp>=3.14.4,<3.15", "msgspec[yaml]>=0.21", "uvloop>=0.20; os_name == 'posix'")
    )
    assert found == ["aiohttp==3.14.4", "msgspec==0.21", "uvloop==0.20", "matplotlib==3.9"]


def test_a_dependency_without_an_oldest_version_is_named() -> None:
    with pytest.raises(ValueError, match=r"aiohttp<4: .* no oldest version"):
        OLDEST.floors(project("aiohttp<4"))


def test_the_package_names_an_oldest_version_of_each() -> None:
    assert OLDEST.floors(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"])
