"""``prfaas gateway``: what is wrong is said at once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prfaas.cli.main import main
from prfaas.gateway.metrics import GatewayMetrics
from prfaas.gateway.server import Service

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


@pytest.mark.parametrize("what", ["deployment.yaml", "keys"])
def test_what_is_written_while_a_gateway_starts_is_taken_over(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that was taken out then stayed good until a file changed once more."""
    (tmp_path / "keys").write_text("leaked\nkept\n")
    ends = "'http://h:1'}]}]"
    file = deployment_file(
        tmp_path, f"{ends}|{ends}\ngateway: {{api_keys_file: '{tmp_path}/keys'}}"
    )
    services = list[Service]()
    monkeypatch.setattr("prfaas.cli.gateway.serve", lambda *given, **_: services.extend(given))
    monkeypatch.setattr("prfaas.cli.gateway.run_until_signal", lambda *_, **__: 0)
    monkeypatch.setattr("prfaas.process.reloading._LOOK_S", 0.01)
    assert main(["gateway", file]) == 0
    (service,) = services
    with (tmp_path / what).open("a") as written:
        written.write("# once more\n")

    async def taken() -> None:
        became = asyncio.Event()
        gateway: Any = SimpleNamespace(
            deployment=service.deployment,
            metrics=GatewayMetrics(),
            become=lambda *_, **__: became.set(),
        )
        assert service.reloading is not None
        watching = asyncio.create_task(service.reloading(gateway).run())
        async with asyncio.timeout(60):
            await became.wait()
        watching.cancel()

    asyncio.run(taken())
