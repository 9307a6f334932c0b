"""``prfaas certs``, as an operator runs it."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509

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
    ("names", "called"),
    [
        ("spiffe://example.org/prfaas/{agent}", "URI:spiffe://example.org/prfaas/%s"),
        ("{agent}.kv.example", "DNS:%s.kv.example"),
        ("{agent}", "DNS:%s"),
    ],
)
def test_certificates_have_the_names_by_which_the_file_lets_in(
    names: str, called: str, tmp_path: Path
) -> None:
    file = tmp_path / "fleet.yaml"
    tls = f'{{ca: {tmp_path}/ca.pem, cert: c, key: k, names: "{names}"}}'
    file.write_text(
        "clusters: [{name: w, kind: pd, machines: [{name: w1,"
        f" agent: {{name: aw1, tls: {tls}}}, engines: [{{name: d, role: decode}}]}}]}}]\n"
        f"gateway: {{agent_tls: {tls}}}"
    )
    assert main(["certs", "init", "--dir", str(tmp_path)]) == 0
    assert main(["certs", "issue", "--deployment", str(file), "--dir", str(tmp_path)]) == 0
    for name in ("aw1", "gateway"):
        made = x509.load_pem_x509_certificate((tmp_path / f"{name}.pem").read_bytes())
        (shown,) = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        kind = "URI" if isinstance(shown, x509.UniformResourceIdentifier) else "DNS"
        assert f"{kind}:{shown.value}" == called % name


def test_a_name_that_no_certificate_can_have_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "fleet.yaml"
    tls = f'{{ca: {tmp_path}/ca.pem, cert: c, key: k, names: "{{agent}}.k\u00f6ln.example"}}'
    file.write_text(
        "clusters: [{name: w, kind: pd, machines: [{name: w1,"
        f" agent: {{name: aw1, tls: {tls}}}, engines: [{{name: d, role: decode}}]}}]}}]"
    )
    assert main(["certs", "init", "--dir", str(tmp_path)]) == 0
    assert main(["certs", "issue", "--deployment", str(file), "--dir", str(tmp_path)]) == 2
    assert "no certificate can call its owner" in capsys.readouterr().err
    assert not (tmp_path / "aw1.pem").exists()


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
