"""An agent's directory on disk: usable, large enough, or what is in the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from prfaas.core.deployment import parse_deployment
from prfaas.doctor.finding import Finding
from prfaas.doctor.storage import check_storage


def found(path: Path, *, size: str = "1 MiB") -> list[Finding]:
    deployment = parse_deployment(
        f"""
clusters:
- name: west
  kind: pd
  engines: [{{name: d, role: decode}}]
  agent: {{name: a, arena: 4 MiB, cache: {{spill: {{path: {path}, size: {size}}}}}}}
""",
        source="test",
    )
    return list(check_storage(deployment))


@pytest.fixture(autouse=True)
def any_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where tests' own files lie in memory, too."""
    monkeypatch.setattr("prfaas.agent.spill_directory.file_system", lambda _path: "ext4")


def test_a_directory_that_is_yet_to_be_made_is_not_made(tmp_path: Path) -> None:
    (finding,) = found(tmp_path / "kv")
    assert (finding.check, finding.level) == ("disk of a", "ok")
    assert not (tmp_path / "kv").exists()


def test_a_disk_that_is_too_small_is_a_warning(tmp_path: Path) -> None:
    (finding,) = found(tmp_path / "kv", size="1000000 TiB")
    assert (finding.level, "smaller 'size'" in finding.advice) == ("warning", True)


def test_what_would_keep_the_agent_from_starting_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "kv"
    path.mkdir(mode=0o755)
    (finding,) = found(path)
    assert (finding.level, "chmod 700" in finding.found) == ("error", True)
    path.chmod(0o700)
    assert found(path)[0].level == "ok"


def test_that_of_another_machine_is_a_note(tmp_path: Path) -> None:
    (finding,) = found(tmp_path / "none" / "kv")
    assert (finding.level, "mkdir -p" in finding.advice) == ("note", True)
