"""``prfaas certs``, as an operator runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from prfaas.cli.main import main


def test_it_says_what_lies_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certs", "init", "--dir", str(tmp_path)]) == 0
    assert main(["certs", "issue", "east", "west", "--dir", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    for name in ("ca.pem", "ca-key.pem", "east.pem", "east-key.pem", "west.pem", "west-key.pem"):
        assert (tmp_path / name).is_file()
        assert f"{tmp_path / name}" in said


def test_a_list_of_nobody_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certs", "revoke", "--dir", str(tmp_path)]) == 2
    assert "no CA in" in capsys.readouterr().err
    assert main(["certs", "init", "--dir", str(tmp_path)]) == 0
    assert main(["certs", "revoke", "--dir", str(tmp_path)]) == 0
    assert f"{tmp_path / 'crl.pem'}: give it to every agent" in capsys.readouterr().out


def test_every_agent_of_a_deployment_gets_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(
        "clusters: [{name: w, kind: pd, machines: ["
        "{name: w1, agent: {name: aw1}, engines: [{name: d, role: decode}]},"
        "{name: w2, agent: {name: aw2}, engines: [{name: p, role: prefill}]}]}]"
    )
    assert main(["certs", "init", "--dir", str(tmp_path)]) == 0
    assert main(["certs", "issue", "--deployment", str(file), "--dir", str(tmp_path)]) == 0
    assert (tmp_path / "aw1.pem").is_file()
    assert (tmp_path / "aw2-key.pem").is_file()
    assert main(["certs", "issue", "--dir", str(tmp_path)]) == 2
    assert "name agents or gateways" in capsys.readouterr().err
    of_file = ["certs", "issue", "--deployment", str(file), "--dir", str(tmp_path)]
    assert main([*of_file, "aw3"]) == 2
    assert "no agent or gateway 'aw3'" in capsys.readouterr().err
    assert not (tmp_path / "aw3.pem").exists()


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        (["--dir", "/dev/null/x"], "prfaas certs: /dev/null/x: Not a directory"),
        (["--days", "99999999"], "99999999 days from now is no date"),
        (["--days", "0"], "--days 0: write 1 or more"),
    ],
)
def test_certificates_that_cannot_be_made_are_explained(
    extra: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["certs", "init", "--dir", str(tmp_path), *extra]) == 2
    assert told in capsys.readouterr().err
