"""``prfaas gateway``: what is wrong is said at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from prfaas.cli.main import main

ENDPOINTS = (
    "agent: {name: a, admin: '127.0.0.1:9', plaintext: true}, "
    "engines: [{name: d1, role: decode, url: 'http://h:1'}]"
)


def deployment_file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "deployment.yaml"
    path.write_text(
        f"clusters: [{{name: west, kind: pd, {ENDPOINTS}}}]\n".replace(*text.split("|"))
    )
    return str(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("'http://h:1'|null", "'d1' has no url"),
        ("http://h:1|localhost:80", "is not http://host:port"),
        ("127.0.0.1:9|127.0.0.1:0", "no fixed admin port"),
        ("role|rolle", "did you mean 'role'"),
        ("plaintext: true|plaintext: false", "url http://h:1 would have prompts"),
        ("'http://h:1'}]}]|'http://h:1'}]}]\nscheduler: {policy: luck}", "scheduler.policy 'luck'"),
        ("'http://h:1'}]}]|'http://h:1'}]}]\ngateway: {listen: nowhere}", "not host:port"),
    ],
)
def test_what_is_wrong_is_said_without_a_traceback(
    change: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["gateway", deployment_file(tmp_path, change)]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert "Traceback" not in said


def test_what_other_deployments_may_not_be_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = deployment_file(tmp_path, "role|role")
    other = tmp_path / "other.yaml"
    other.write_text(Path(first).read_text())
    assert main(["gateway", first, "--also", str(other)]) == 2
    assert (
        f"other.yaml: agent 'a' at http://127.0.0.1:9 is in {first} too" in capsys.readouterr().err
    )
    assert main(["gateway", first, "--also", first]) == 2
    assert "served already" in capsys.readouterr().err
    gateway = "gateway: {workers: 2, admin: '127.0.0.1:8001'}\n"
    Path(first).write_text(Path(first).read_text() + gateway)
    assert main(["gateway", first, "--also", str(other)]) == 2
    assert "serve one deployment" in capsys.readouterr().err
