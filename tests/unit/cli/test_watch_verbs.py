"""``status``, ``doctor``, ``engine``, ``down`` and ``completion`` from the command line."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from prfaas.cli.doctor import DoctorReport
from prfaas.cli.down import DownReport
from prfaas.cli.drain import EngineLeft, Told, _lines, _Order
from prfaas.cli.engine import EngineReport
from prfaas.cli.main import GROUPS, VERBS, main
from prfaas.cli.reports import report_schema
from prfaas.core.deployment import load_deployment, parse_deployment
from prfaas.launch.addresses import publishing
from prfaas.launch.commands import engine_command
from prfaas.launch.run_directory import RunDirectory
from prfaas.launch.runs import Run
from prfaas.status.snapshot import Snapshot
from prfaas.testing.mock_deployment import MockDeployment

DEPLOYMENT = """
model: {path: /models/m, served_name: m}
clusters:
  - name: west
    kind: pd
    agent: {name: a, admin: "127.0.0.1:3", socket: /run/a.sock, plaintext: true}
    engines:
      - {name: d1, role: decode, url: "http://127.0.0.1:2", args: ["--seed", "a b"]}
      - {name: d2, role: decode}
gateway: {listen: "127.0.0.1:1"}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    path = tmp_path / "deployment.yaml"
    path.write_text(DEPLOYMENT)
    return path


def printed(capsys: pytest.CaptureFixture[str], kind: type) -> Any:
    """The JSON on standard output, checked against the verb's schema."""
    report = json.loads(capsys.readouterr().out)
    jsonschema.validate(report, report_schema((kind,)))
    return report


def test_help_shows_every_verb_once_in_its_group(capsys: pytest.CaptureFixture[str]) -> None:
    grouped = [verb for verbs in GROUPS.values() for verb in verbs]
    assert sorted(grouped) == sorted(VERBS)
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert all(f"\n  {verb:11} {summary}\n" in shown for verb, summary in VERBS.items())
    assert len(shown.splitlines()) <= 47


def test_engine_prints_the_command_it_would_run(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["engine", "d1", str(file), "--vllm", "gpu", "--json"]) == 0
    report = printed(capsys, EngineReport)
    deployment = parse_deployment(DEPLOYMENT, source="test")
    cluster = deployment.clusters[0]
    engine = publishing(cluster.engines[0], cluster.machines[0].agent)
    assert engine.kv_events == "ipc:///run/d1.events"
    command = engine_command(deployment, engine, vllm="gpu")
    assert (report["arguments"], report["cluster"]) == (list(command.arguments), "west")
    assert main(["engine", "d1", str(file), "--vllm", "gpu"]) == 0
    shell = capsys.readouterr().out
    # A shell reads it as the same words.
    read = subprocess.run(
        ["bash", "-c", shell.replace(sys.executable, "printf '%s\\n'", 1)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert read.stdout.splitlines() == list(command.arguments[1:])


@pytest.mark.parametrize("source", ["api_key_file: %s", "api_key_env: AN_ENGINES_KEY"])
def test_engine_prints_where_its_key_is_and_not_the_key(
    source: str, file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is printed is pasted into units and manifests."""
    secret = "the-key-of-an-engine"
    kept = file.with_name("a file of keys")
    kept.write_text(f"# keys\n{secret}\nan-older-key\n")
    monkeypatch.setenv("AN_ENGINES_KEY", f"{secret} an-older-key")
    said = source.replace("%s", f'"{kept}"')
    file.write_text(DEPLOYMENT.replace("{name: d1,", f"{{name: d1, {said},"))
    for form in ([], ["--json"]):
        assert main(["engine", "d1", str(file), "--vllm", "gpu", *form]) == 0
        shown = capsys.readouterr().out
        assert secret not in shown
        if not form:
            asks = shown.replace(sys.executable, "printenv VLLM_API_KEY; true", 1)
            read = subprocess.run(["sh", "-c", asks], capture_output=True, text=True, check=True)
            assert read.stdout == f"{secret}\n"


def test_engine_runs_it_in_its_own_place(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[tuple[str, ...]] = []
    environments: list[dict[str, str]] = []

    def become(_file: str, words: tuple[str, ...], environment: dict[str, str]) -> None:
        became.append(tuple(words))
        environments.append(environment)

    monkeypatch.setattr("os.execvpe", become)
    monkeypatch.setenv("CLIENTS_KEYS", "a-key-of-a-client")
    file.write_text(DEPLOYMENT.replace("gateway: {", "gateway: {api_keys_env: CLIENTS_KEYS, "))
    main(["engine", "d1", str(file), "--vllm", "gpu", "--run"])
    assert became[0][1:4] == ("-m", "vllm.entrypoints.cli.main", "serve")
    assert "PATH" in environments[0]
    assert "CLIENTS_KEYS" not in environments[0]


@pytest.mark.parametrize(
    ("name", "says"), [("d2", "engine 'd2' has no 'url'"), ("d3", "no engine 'd3'; known: d1, d2")]
)
def test_engine_names_what_lacks(
    name: str, says: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["engine", name, str(file), "--vllm", "gpu"]) == 2
    assert says in capsys.readouterr().err


def test_no_engine_is_opened_to_the_network_unless_the_file_says_so(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(DEPLOYMENT.replace("plaintext: true", "plaintext: false").replace("a b", "1"))
    assert main(["engine", "d1", str(file), "--vllm", "gpu"]) == 0
    file.write_text(file.read_text().replace("127.0.0.1:2", "0.0.0.0:2"))
    assert main(["engine", "d1", str(file), "--vllm", "gpu"]) == 2
    assert "open to the network in plaintext" in capsys.readouterr().err


def test_status_of_nothing_is_a_status(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(file), "--json"]) == 1
    report = printed(capsys, Snapshot)
    assert report["troubles"][0] == "the gateway at http://127.0.0.1:1 does not answer"
    assert main(["status", str(file), "--once"]) == 1
    assert "does not answer" in capsys.readouterr().out
    assert main(["status"]) == 2
    assert "no 'prfaas up' runs on this machine" in capsys.readouterr().err


async def test_drain_waits_until_nothing_is_left_and_undoes(tmp_path: Path) -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        file = tmp_path / "deployment.yaml"
        file.write_text(mock.deployment_text())
        url = str((await client.get("/health")).url.origin())

        async def drain(name: str, *options: str, at: str = url) -> tuple[int | None, str]:
            words = ["drain", name, str(file), *options, "--gateway", at]
            status, out = await subprocess_of(*words)
            return status, out.decode()

        assert await drain("d1") == (0, "d1: empty\n")
        status, out = await drain("west", "--json")
        (told,) = json.loads(out)
        assert (status, [row["engine"] for row in told["drains"]]) == (0, ["p1", "d1", "d2"])
        assert await drain("nobody") == (2, "")
        status, out = await drain("west", "--undo", "--json")
        assert (status, json.loads(out)[0]["undone"]) == (0, ["p1", "d1", "d2"])
        status, out = await drain("d1", at="http://127.0.0.1:1")
        assert status == 1
        assert out.startswith("http://127.0.0.1:1 was not told: ")


def test_what_is_left_on_an_engine_is_counted() -> None:
    order = _Order("d1", False, ["http://g"], {}, parse_deployment(DEPLOYMENT, source="x"))

    def said(requests: int) -> list[str]:
        left = EngineLeft("d1", "m", "west", "told", 0.0, requests)
        return list(_lines(order, [Told(gateway="http://g", drains=[left])]))

    assert [said(n) for n in (0, 1, 2)] == [
        ["d1: empty"],
        ["d1: 1 request left"],
        ["d1: 2 requests left"],
    ]


async def test_status_as_a_process_of_a_running_deployment(tmp_path: Path) -> None:
    mock = MockDeployment()
    file = tmp_path / "mock.yaml"
    async with mock.running() as client:
        await mock.ready()
        file.write_text(mock.deployment_text())
        url = str(client._base_url)
        process = await subprocess_of("status", str(file), "--json", "--gateway", url)
    assert process[0] == 0
    report = json.loads(process[1])
    jsonschema.validate(report, report_schema((Snapshot,)))
    assert (report["gateway"]["ready"], report["troubles"]) == (True, [])


async def subprocess_of(*words: str) -> tuple[int | None, bytes]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "prfaas.cli.main", *words, stdout=subprocess.PIPE
    )
    out, _ = await process.communicate()
    return process.returncode, out


def test_doctor_says_what_to_do(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["doctor", str(file), "--json"])
    report = printed(capsys, DoctorReport)
    assert status == (1 if report["errors"] else 0)
    by_check = {finding["check"]: finding for finding in report["findings"]}
    assert by_check["certificate of a"]["level"] == "warning"
    assert {"python", "shared memory", "file limit", "gateway"} <= set(by_check)
    for finding in report["findings"]:
        assert finding["advice"] or finding["level"] in ("ok", "note")
    assert main(["doctor", str(file)]) == status
    assert "findings" in capsys.readouterr().out


def test_doctor_without_a_file_looks_at_what_runs_here(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def looked_at() -> set[str]:
        main(["doctor", "--measure", "0", "--json"])
        return {finding["check"] for finding in printed(capsys, DoctorReport)["findings"]}

    alone = looked_at()
    assert not alone & {"deployment", "gateway", "agent a"}
    run = RunDirectory()
    run.write_deployment(load_deployment(file))
    try:
        assert looked_at() >= alone | {"deployment", "gateway", "agent a", "engine d1"}
    finally:
        run.close()


def test_where_several_run_one_is_named_by_its_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    several = [Run(name, 1, f"/runs/{name}") for name in ("one", "other")]
    for module in ("prfaas.cli.which_deployment", "prfaas.cli.doctor"):
        monkeypatch.setattr(f"{module}.running", lambda: several)
    for verb in ("status", "doctor"):
        assert main([verb]) == 2
        said = capsys.readouterr().err
        assert "/runs/one/deployment.json or /runs/other/deployment.json" in said


def test_down_without_a_run_says_so(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["down", "--json"]) == 1
    assert printed(capsys, DownReport) == {"ended": [], "still_ending": []}
    assert main(["down"]) == 1
    assert "Nothing of 'prfaas up' runs" in capsys.readouterr().err


def test_completion_knows_every_verb_and_is_a_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert all(verb in script for verb in VERBS)
    assert "--kv-cache-dtype" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
