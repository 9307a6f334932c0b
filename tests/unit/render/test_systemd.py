"""Units: complete, accepted by systemd where it is installed, and hardened by its own measure."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.unit.render.examples import example, spilling

from prfaas.core.errors import ConfigError
from prfaas.render import systemd

ANALYZE = shutil.which("systemd-analyze")
MOST_EXPOSED = {"agent": 2.0, "gateway": 2.0, "engine": 2.5}
"""Of 10, as ``systemd-analyze security`` counts; 2.5: an engine has devices and compiles code."""


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("units")
    binary = folder / "bin" / "prfaas"
    binary.parent.mkdir()
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    files = systemd.render(example("fleet"), prefix=str(folder), file="/etc/prfaas/d.yaml")
    for path, text in files.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text)
    return folder


def test_every_machine_has_its_processes(units: Path) -> None:
    there = {p.name for p in (units / "west-1").iterdir()}
    assert there == {
        "prfaas.target",
        "prfaas-agent-west-1-agent.service",
        "prfaas-engine-west-1-p.service",
        "prfaas-engine-west-1-d.service",
    }
    assert (units / "gateway-2" / "prfaas-gateway-gateway-2.service").is_file()
    engine = (units / "west-1" / "prfaas-engine-west-1-d.service").read_text()
    assert "After=prfaas-agent-west-1-agent.service" in engine
    assert "drain west-1-d /etc/prfaas/d.yaml --within 600s" in engine


@pytest.mark.skipif(ANALYZE is None, reason="systemd is not installed")
def test_systemd_takes_them(units: Path) -> None:
    for folder in (f for f in units.iterdir() if f.name != "bin"):
        done = subprocess.run(
            [str(ANALYZE), "verify", *map(str, folder.iterdir())], capture_output=True, text=True
        )
        complaints = [line for line in done.stderr.splitlines() if "prfaas" in line]
        assert done.returncode == 0, complaints
        assert complaints == []


@pytest.mark.skipif(ANALYZE is None, reason="systemd is not installed")
def test_they_are_hardened(units: Path) -> None:
    for unit in units.glob("*/*.service"):
        done = subprocess.run(
            [str(ANALYZE), "security", "--offline=true", "--no-pager", str(unit)],
            capture_output=True, text=True,
        )  # fmt: skip
        level = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
        assert level is not None, done.stderr
        assert float(level[1]) <= MOST_EXPOSED[unit.name.split("-")[1]], done.stdout


@pytest.mark.parametrize(
    ("path", "lines"),
    [
        ("/var/lib/prfaas-kv", ["StateDirectory=prfaas-kv", "StateDirectoryMode=0700"]),
        ("/mnt/nvme/kv", ["ReadWritePaths=-/mnt/nvme/kv"]),
    ],
)
def test_an_agent_may_write_its_cache_and_nothing_else(path: str, lines: list[str]) -> None:
    files = systemd.render(spilling("fleet", path), prefix="/opt", file="/etc/prfaas/d.yaml")
    agents = [text.splitlines() for name, text in files.items() if "prfaas-agent" in name]
    assert agents
    for text in agents:
        assert [line for line in lines if line not in text] == []
    with pytest.raises(ConfigError, match="units see no home"):
        systemd.render(spilling("fleet", "/home/me/kv"), prefix="/opt", file="/etc/prfaas/d.yaml")


def test_what_up_would_choose_must_be_in_the_file() -> None:
    with pytest.raises(ConfigError, match="engine 'east-prefill': url"):
        systemd.render(example("small"), prefix="/opt/prfaas", file="/etc/prfaas/d.yaml")
