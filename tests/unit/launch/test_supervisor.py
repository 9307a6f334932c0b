"""What a start waits for is shown."""

import asyncio
import io
import sys
from importlib import metadata
from pathlib import Path

import pytest
from rich.console import Console

from prfaas.core.deployment import RESERVED_NAMES, Deployment, EngineConfig, parse_deployment
from prfaas.launch import supervisor, tuning
from prfaas.launch.addresses import free_address, resolve
from prfaas.launch.child import Child, ChildState
from prfaas.launch.commands import Command
from prfaas.launch.progress import StartProgress
from prfaas.launch.run_directory import RunDirectory
from prfaas.launch.supervisor import Supervisor

TROUBLED = """
import http.server, sys
answers = [b"<html>not yet</html>"] * 20
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503); self.end_headers()
        self.wfile.write(answers.pop(0) if self.path == "/ready" and answers else TROUBLES)
TROUBLES = b'{"ready": false, "troubles": ["layouts differ", "d1 is down"]}'
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""
# Everything but the gateway runs elsewhere.
DEPLOYMENT = """
clusters:
  - name: west
    kind: pd
    engines: [{{name: d1, role: decode, url: "http://127.0.0.1:9"}}]
    agent: {{name: agent, external: true, admin: "127.0.0.1:10"}}
gateway: {{listen: "{listen}"}}
"""


async def test_what_the_gateway_misses_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = free_address()
    command = Command((sys.executable, "-c", TROUBLED, address.rpartition(":")[2]), {})
    monkeypatch.setattr(supervisor, "gateway_command", lambda file, **_: command)
    monkeypatch.setattr(supervisor, "_PATIENCE_S", 0.01)
    shown: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    def changed(child: Child) -> None:
        if child.missing:
            shown.put_nowait((child.name, child.missing))

    run = RunDirectory(tmp_path)
    async with Supervisor(
        parse_deployment(DEPLOYMENT.format(listen=address), source="test"),
        local_engines=frozenset(),
        run=run,
        changed=changed,
    ) as started:
        assert started.gateways[0].name in RESERVED_NAMES
        starting = asyncio.create_task(started.start())
        async with asyncio.timeout(30.0):
            assert await shown.get() == ("gateway", "layouts differ; d1 is down")
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
    run.close()


ENGINE = """
import http.server, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""
GPU_ENGINES = """
clusters:
  - name: west
    kind: pd
    engines:
      - {{name: d1, role: decode, url: "http://{d1}"}}
      - {{name: d2, role: decode, url: "http://{d2}", args: [-tp, "2"]}}
      - {{name: d3, role: decode, url: "http://{d3}", args: [-tp, "2"]}}
    agent: {{name: agent, external: true, admin: "127.0.0.1:10"}}
"""


async def test_kernels_are_tuned_for_each_number_of_ranks_and_ranks_that_tuned_start_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def command(_: Deployment, engine: EngineConfig, **__: object) -> Command:
        return Command((sys.executable, "-c", ENGINE, str(engine.url).rpartition(":")[2]), {})

    tuned: list[str] = []

    async def run(_: object, __: Deployment, engine: EngineConfig) -> None:
        tuned.append(engine.name)
        running.append([child.name for child in started.engines if child.state == "ready"])

    running: list[list[str]] = []
    monkeypatch.setattr(supervisor, "installed_vllm", lambda: "gpu")
    monkeypatch.setattr(supervisor, "engine_command", command)
    monkeypatch.setattr(tuning, "run", run)
    monkeypatch.setattr(tuning, "directory", lambda: tmp_path / "triton")
    monkeypatch.setattr(metadata, "version", lambda _: "0.32.0")
    deployment = parse_deployment(
        GPU_ENGINES.format(**{name: free_address() for name in ("d1", "d2", "d3")}), source="test"
    )
    run_directory = RunDirectory(tmp_path / "run")
    told: list[str] = []
    async with Supervisor(
        deployment,
        local_engines=frozenset(("d1", "d2", "d3")),
        run=run_directory,
        changed=lambda child: told.append(f"{child.name} {child.state} {child.missing}".strip()),
    ) as started:
        left = await started._tuned_first()
        assert tuned == ["d1", "d2"]
        assert running == [["d1"], ["d1", "d2"]]  # nobody tunes beside another
        assert [child.name for child in left] == ["d2", "d3"]
        assert [child.state for child in started.engines] == ["ready", "ended", "waiting"]
        await started._until_ready(left)
        assert [child.state for child in started.engines] == ["ready"] * 3
        alone = [line for line in told if "tunes the model's kernels" in line]
        assert [line.partition(" it ")[0] for line in alone] == ["d1 starting", "d2 starting"]
        assert "d2 starting" in told  # with the others, when it had tuned
    run_directory.close()


def test_what_is_missing_stands_behind_the_state(tmp_path: Path) -> None:
    run, out = RunDirectory(tmp_path), io.StringIO()
    with StartProgress(Console(file=out, width=40)) as progress:
        child = Child("gateway", Command((), {}), probe="", run=run, changed=progress.changed)
        child.state = ChildState.STARTING
        child.explain("KV layouts of p1 and d1 do not pair: [4] is not [8]")
        child.explain("KV layouts of p1 and d1 do not pair: [4] is not [8]")
    (line,) = out.getvalue().splitlines()
    words = "gateway: starting: KV layouts of p1 and d1 do not pair: [4] is not [8]"
    assert line.split(" s  ", 1)[1] == words
    run.close()


def test_the_stock_engine_beside_has_the_decode_engines_own_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One with another ``--dtype`` would answer otherwise, and say nothing of the hand-off."""
    text = """
clusters:
  - name: west
    kind: pd
    engines: [{name: d1, role: decode, args: [--dtype, float32], env: {OWN: "1"}}]
    agent: {name: agent}
gateway: {listen: "127.0.0.1:0"}
model: {path: some/model}
"""
    monkeypatch.setattr(supervisor, "installed_vllm", lambda: "cpu")
    run = RunDirectory(tmp_path)
    started = Supervisor(
        resolve(parse_deployment(text, source="test"), sockets=tmp_path),
        local_engines=frozenset({"d1"}),
        run=run,
        changed=lambda child: None,
        plain_engine=True,
    )
    plain = started._plain
    assert plain is not None
    assert plain.command.arguments[-2:] == ("--dtype", "float32")
    assert plain.command.environment["OWN"] == "1"
    run.close()
