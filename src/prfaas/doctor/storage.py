"""The directories on disk in which agents of a deployment keep cached prefixes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from prfaas.agent.spill_directory import open_directory
from prfaas.core.deployment import AgentConfig, Deployment, SpillConfig
from prfaas.core.errors import ConfigError
from prfaas.core.units import format_bytes
from prfaas.doctor.finding import Finding, ok
from prfaas.doctor.here import agents_here


def check_storage(deployment: Deployment) -> Iterator[Finding]:
    """Of every agent here that has one; nothing is made or written there."""
    for agent in agents_here(deployment):
        if agent.cache.spill is not None and not agent.external:
            yield _of_agent(agent, agent.cache.spill)


def _of_agent(agent: AgentConfig, spill: SpillConfig) -> Finding:
    check, path = f"disk of {agent.name}", Path(spill.path)
    there = path if path.exists() else path.parent
    if not there.is_dir():
        return Finding(
            check, "note", f"{there} is not there: on the machine of {agent.name} it must be",
            f"mkdir -p {there}, where that agent runs",
        )  # fmt: skip
    if there is path:
        try:
            os.close(open_directory(path))
        except ConfigError as error:
            return Finding(check, "error", str(error), "the agent would not start: correct 'spill'")
    free = shutil.disk_usage(there).free + _bytes_in(path)
    words = f"{format_bytes(free)} for {format_bytes(spill.most_bytes)} in {path}"
    if free < spill.most_bytes:
        return Finding(
            check, "warning", words, "a smaller 'size' in 'spill': when the disk is full the agent "
            "writes no more, and then old files give way",
        )  # fmt: skip
    return ok(check, words)


def _bytes_in(path: Path) -> int:
    """What the agent has written already, and may write anew."""
    if not path.is_dir():
        return 0
    with os.scandir(path) as entries:
        return sum(entry.stat().st_size for entry in entries if entry.is_file())
