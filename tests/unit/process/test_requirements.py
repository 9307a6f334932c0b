"""What is installed is looked at as pip would."""

from __future__ import annotations

from importlib import metadata

import pytest

from prfaas.core.errors import ConfigError
from prfaas.process.requirements import check_requirements, unmet_requirements

INSTALLED = {"aiohttp": "3.14.3", "uvloop": "0.20.0rc1"}


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    wanted: list[str] = []

    def version(name: str) -> str:
        if name not in INSTALLED:
            raise metadata.PackageNotFoundError(name)
        return INSTALLED[name]

    monkeypatch.setattr(metadata, "requires", lambda name: wanted)
    monkeypatch.setattr(metadata, "version", version)
    return wanted


def test_what_is_too_old_or_too_new_or_not_there_is_named(installed: list[str]) -> None:
    installed += ["aiohttp<3.15,>=3.14.4", "uvloop<0.19", "httptools>=0.6.4"]
    assert list(unmet_requirements()) == [
        "aiohttp 3.14.3 is installed, aiohttp<3.15,>=3.14.4 is needed",
        "uvloop 0.20.0rc1 is installed, uvloop<0.19 is needed",
        "httptools is not installed, httptools>=0.6.4 is needed",
    ]
    with pytest.raises(ConfigError, match=r"httptools>=0\.6\.4 is needed: install prfaas"):
        check_requirements()


def test_what_is_for_an_extra_or_another_system_is_not_asked_for(installed: list[str]) -> None:
    installed += [
        "aiohttp>=3",
        "uvloop>0.19",
        "vllm==0.32.0; extra == 'gpu'",
        "winloop; platform_system == 'Windows'",
    ]
    check_requirements()


def test_a_source_tree_asks_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", requires)
    assert not list(unmet_requirements())


def test_this_environment_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert not list(unmet_requirements())
