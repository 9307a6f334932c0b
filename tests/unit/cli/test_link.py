"""``prfaas link test``, as an operator runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prfaas.cli.main import main
from prfaas.link.tcp.config import TcpLinkConfig
from prfaas.link.tcp.link import TcpLink
from prfaas.link.tcp.link_test import SilentSink
from prfaas.tls.files import TlsFiles


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    directory = tmp_path / "certs"
    assert main(["certs", "init", "--dir", str(directory)]) == 0
    assert main(["certs", "issue", "east", "west", "--dir", str(directory)]) == 0
    return directory


def far_end(certs: Path) -> TcpLink:
    files = TlsFiles(certs / "ca.pem", certs / "west.pem", certs / "west-key.pem")
    return TcpLink(TcpLinkConfig(name="west", security=files), SilentSink())


def test_the_test_reports_stages_and_a_recommendation(
    certs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    west = far_end(certs)
    capsys.readouterr()
    arguments = ["link", "test", west.address, "--peer", "west", "--name", "east"]
    try:
        status = main(
            [
                *arguments,
                "--certs",
                str(certs),
                "--connections",
                "1,2",
                "--seconds",
                "0.4",
                "--json",
            ]
        )
    finally:
        west.close()
    assert status == 0
    said = json.loads(capsys.readouterr().out)
    assert [stage["connections"] for stage in said["stages"]] == [1, 2]
    assert all(stage["goodput_bytes_per_s"] > 0 for stage in said["stages"])
    assert said["recommended_connections"] in (1, 2)


def test_the_shortest_stage_is_measured(certs: Path) -> None:
    west = far_end(certs)
    arguments = ["link", "test", west.address, "--peer", "west", "--name", "east"]
    arguments += ["--certs", str(certs), "--connections", "1", "--seconds", "0.1"]
    try:
        assert main(arguments) == 0
    finally:
        west.close()


def test_a_wrong_name_is_told_at_once(certs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    west = far_end(certs)
    arguments = ["link", "test", west.address, "--peer", "north", "--name", "east"]
    try:
        assert main([*arguments, "--certs", str(certs)]) == 2
    finally:
        west.close()
    assert "issued to west, not to 'north'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        ([], "--certs DIRECTORY"),
        (["--plaintext", "--connections", "many"], "numbers in 1..64"),
        (["--plaintext", "--seconds", "0"], "--seconds 0: write 0.1 to 3600"),
        (["--plaintext", "--seconds", "-1"], "--seconds -1: write"),
        (["--plaintext", "--seconds", "0.05"], "--seconds 0.05: write"),
        (["--plaintext", "--seconds", "nan"], "--seconds nan: write"),
    ],
)
def test_bad_arguments_are_explained(
    extra: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["link", "test", "127.0.0.1:9", "--peer", "west", "--name", "east"]
    assert main([*arguments, *extra]) == 2
    assert told in capsys.readouterr().err
