"""Every command and file that the documentation shows is run, read, or says why it is not.

A block for a shell (``sh``) is run in a directory of its own, line by line, before a gateway with
mock engines and agents where it speaks to one; ``sh title="needs ..."`` is not run, but its
``prfaas`` commands must be right. ``yaml`` is read as the file it is (`test_documented_files`),
``json`` as a line of a journal, ``python`` is run with the page's own commands and tests,
``promql`` by Prometheus' own parser where there is one, and its metrics must be of the table.
``text`` is a drawing, output, or a synopsis, whose options must exist; ``mermaid`` is printed from
a table and compared by that table's test. Nothing else passes.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.unit.docs.blocks import PAGES, ROOT, Block, blocks, commands

from prfaas.cli.main import build_parser, main
from prfaas.cli.reports import leaves
from prfaas.core.deployment import parse_deployment
from prfaas.launch.commands import engine_command
from prfaas.launch.run_directory import RunDirectory
from prfaas.policies.registry import POLICIES
from prfaas.scheduler.journal import decode
from prfaas.testing.mock_deployment import MockDeployment

EVERY = list(blocks())
RUN = [block for block in EVERY if block.kind == "sh" and block.needs is None]
MODEL = "prfaas-tiny-gdn"
"""Of the tutorial's request."""
MOST_REQUESTS = {"simulate": "60", "bench": "4"}
"""What a verb of the page may ask for is cut to so many: a test takes seconds."""
A_MODEL = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "num_hidden_layers": 28,
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "torch_dtype": "bfloat16",
}
ASKED = """
lengths: {lognormal: {mu: 9.90, sigma: 1.00, low: 128, high: 64K}}
output_tokens: 1024
"""
A_TRACE = [
    {
        "timestamp": 500 * i,
        "input_length": 2000 + i,
        "output_length": 200,
        "hash_ids": [0, *range(4 * i + 1, 4 * i + 4)],
    }
    for i in range(300)
]
WITHOUT_A_SHELL = re.compile(r"^(\$ |(\.venv/bin/)?prfaas |curl |make |pip |docker |kubectl )")


def ids(block: Block) -> str:
    return block.place.removeprefix("docs/")


def test_every_block_says_what_it_is() -> None:
    kinds = {"sh", "yaml", "json", "text", "mermaid", "promql", "python"}
    assert {b.place: b.kind for b in EVERY if b.kind not in kinds} == {}
    assert [b.place for b in EVERY if b.needs and b.kind != "sh"] == []
    assert len(RUN) >= 12
    fences = sum(len(re.findall(r"^ *```", page.read_text(), re.MULTILINE)) for page in PAGES)
    assert fences == 2 * len(EVERY)


@pytest.mark.parametrize("block", [b for b in EVERY if b.kind == "sh"], ids=ids)
def test_its_commands_exist(block: Block) -> None:
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    found = list(commands(block))
    assert found
    for command in found:
        words = command.words or re.split(r"\s[|>&]", command.text)[0].split()
        if words[0] == "make":
            assert {w for w in words[1:] if "=" not in w} <= targets, command.text
        if words[0].removeprefix(".venv/bin/") == "prfaas":
            build_parser("*").parse_args(words[1:])  # Exits where it is wrong.


@pytest.mark.parametrize("block", [b for b in EVERY if b.kind == "text"], ids=ids)
def test_a_synopsis_names_options_that_there_are(block: Block) -> None:
    for line in re.sub(r"\n +", " ", block.text).splitlines():
        if block.page == "docs/cli.md" or not WITHOUT_A_SHELL.match(line):
            continue
        assert "[" in line, f"{block.place}: {line}: a command stands in a block 'sh'"
        verb = line.removeprefix(".venv/bin/").split()[1]
        known = {
            option
            for words, parser in leaves(build_parser("*"))
            if words[0] == verb
            for action in parser._actions
            for option in action.option_strings
        }
        assert set(re.findall(r"--[a-z-]+", line)) <= known, f"{block.place}: {line}"


@pytest.mark.parametrize("block", [b for b in EVERY if b.kind == "json"], ids=ids)
def test_a_line_of_a_journal_is_one(block: Block) -> None:
    for line in block.text.splitlines():
        at, entry = decode(line.encode())
        assert at > 0
        assert entry


def test_the_policy_that_the_page_adds_does_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    [module, tests] = [b for b in EVERY if b.kind == "python"]
    assert module.page == tests.page == "docs/add-a-policy.md"
    made: dict[str, Any] = {"__name__": "spare_line"}
    exec(compile(module.text, module.place, "exec"), made)
    row = made["SpareLineConfig"], made["SpareLinePolicy"]
    monkeypatch.setitem(POLICIES, row[1].name, row)
    found: dict[str, Any] = {"__name__": "test_spare_line"}
    exec(compile(tests.text, tests.place, "exec"), found)
    checks = [value for name, value in found.items() if name.startswith("test_")]
    assert len(checks) == 2
    for check in checks:
        check()


def test_diagrams_are_compared_elsewhere() -> None:
    tests = "".join(p.read_text() for p in (ROOT / "tests/unit").rglob("test_lifecycle.py"))
    pages = {b.page for b in EVERY if b.kind == "mermaid"}
    assert all(Path(page).name in tests for page in pages), pages


@pytest.mark.parametrize("block", [b for b in EVERY if b.kind == "promql"], ids=ids)
def test_queries_are_of_metrics_that_there_are(block: Block, tmp_path: Path) -> None:
    table = (ROOT / "docs/metrics.md").read_text() + (ROOT / "monitoring/rules.yml").read_text()
    named = set(re.findall(r"\b(?:prfaas|vllm)[a-z_:]+", block.text))
    assert named
    for name in named:
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        assert name in table or base in table or name.startswith("vllm:"), name
    rules = [{"record": f"r{i}", "expr": q} for i, q in enumerate(queries(block))]
    file = tmp_path / "rules.json"
    file.write_text(json.dumps({"groups": [{"name": "docs", "rules": rules}]}))
    if shutil.which("promtool"):
        checked = subprocess.run(
            ["promtool", "check", "rules", str(file)], capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stderr


def test_the_readmes_engine_is_started_as_prfaas_starts_it() -> None:
    [block] = [b for b in EVERY if b.page == "README.md" and "vllm serve" in b.text]
    [file] = [b for b in EVERY if b.page == "README.md" and b.kind == "yaml"]
    [shown] = [command.words for command in commands(block)]
    assert shown is not None
    deployment = parse_deployment(file.text, source="README.md")
    engine = deployment.clusters[0].engines[0]
    made = engine_command(deployment, engine, vllm="gpu").arguments
    told = {name for name in shown if name.startswith("--")}
    assert told - {"--kv-events-config"} <= set(made)
    for name in ("--block-size", "--host", "--port"):
        assert shown[shown.index(name) + 1] == made[made.index(name) + 1]
    transfer, right = (
        json.loads(words[list(words).index("--kv-transfer-config") + 1]) for words in (shown, made)
    )
    extra, rights = transfer.pop("kv_connector_extra_config"), right["kv_connector_extra_config"]
    assert transfer.items() <= right.items()
    assert extra.items() <= rights.items()


def queries(block: Block) -> list[str]:
    """One for each line that does not begin with a space; comments are left out."""
    lines = [re.sub(r"\s*# .*", "", line) for line in block.text.splitlines()]
    return re.sub(r"\n\s+", " ", "\n".join(line for line in lines if line)).splitlines()


class MockFleet:
    """A gateway before mock engines and agents, in a thread, as a run of ``prfaas up`` on this
    machine; it has served some requests."""

    def __init__(self, home: Path) -> None:
        self.journal = home / "journal.jsonl"
        self._mock = MockDeployment(
            journal_file=self.journal, max_body="4 MiB", gateway="  operator_keys: [operator]"
        )
        for engine in self._mock.engines.values():
            engine.model = MODEL
        self._up, self._end = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._failure: BaseException | None = None

    def __enter__(self) -> MockFleet:
        self._thread.start()
        self._up.wait()
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    def wait_until_well(self) -> None:
        """A busy machine may have kept it from looking after its engines."""
        asyncio.run_coroutine_threadsafe(self._mock.ready(), self._loop).result()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            async with self._mock.running() as client:
                await self._mock.ready()
                self.address = str(client._base_url).removeprefix("http://").rstrip("/")
                await self._ask(client)
                listen = f'  listen: "{self.address}"\n'
                self.deployment = self._mock.deployment_text().replace(
                    "gateway:\n", f"gateway:\n{listen}"
                )
                self._up.set()
                await self._end.wait()
        except BaseException as error:
            self._failure = error
            raise
        finally:
            self._up.set()

    async def _ask(self, client: aiohttp.ClientSession) -> None:
        for tokens in (5, 100, 200):
            body = {"model": MODEL, "prompt": "x" * tokens}
            named = {"X-Request-Id": f"r-{tokens}"}
            async with client.post("/v1/completions", json=body, headers=named) as answer:
                assert answer.status == 200
                await answer.read()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MockFleet]:
    with MockFleet(tmp_path_factory.mktemp("fleet")) as running:
        yield running


@pytest.fixture
def place(tmp_path: Path, fleet: MockFleet, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with what the pages name, where ``prfaas`` and ``.venv/bin/prfaas`` are this."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "120")
    here = tmp_path / "here"
    (here / ".venv/bin").mkdir(parents=True)
    program = here / ".venv/bin/prfaas"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m prfaas.cli.main "$@"\n')
    (program.parent / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    for file in program.parent.iterdir():
        file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(here))
    for name in ("examples", "monitoring", "src"):
        (here / name).symlink_to(ROOT / name)
    monkeypatch.chdir(here)
    run = RunDirectory()
    run.write_deployment(parse_deployment(fleet.deployment, source="mock"))
    yield here
    run.close()


def lay_out(page: str, here: Path, fleet: MockFleet) -> None:
    """Files that a page's commands name and do not make."""
    deployments = {
        "docs/systemd.md": ROOT / "examples/deployments/fleet.yaml",
        "docs/kubernetes.md": ROOT / "examples/deployments/small.yaml",
        "docs/planner.md": ROOT / "examples/paper.yaml",
        "docs/simulator.md": ROOT / "examples/paper.yaml",
    }
    text = deployments[page].read_text() if page in deployments else fleet.deployment
    if page == "docs/deployment.md":
        [text] = [b.text for b in EVERY if b.page == "README.md" and b.kind == "yaml"]
    (here / "deployment.yaml").write_text(text)
    (here / "before.yaml").write_text(text.replace("200 Mbit/s", "100 Mbit/s"))
    for name in ("events.jsonl", "gateway.jsonl"):
        shutil.copy(fleet.journal, here / name)
    (here / "my-model").mkdir()
    (here / "my-model/config.json").write_text(json.dumps(A_MODEL))
    [profile] = [b.text for b in EVERY if b.page == "docs/planner.md" and "hardware:" in b.text]
    for name in ("mine.yaml", "h200.yaml", "h20.yaml"):
        (here / name).write_text(profile)
    (here / "asked.yaml").write_text(ASKED)
    [policy, _] = [b.text for b in EVERY if b.kind == "python"]
    (here / "spare_line.py").write_text(policy)
    trace = "".join(json.dumps(line) + "\n" for line in A_TRACE).encode()
    (here / "conversation_trace.jsonl").write_bytes(trace)
    (here / "conversation.jsonl.gz").write_bytes(gzip.compress(trace))


def cut(words: list[str]) -> list[str]:
    """The same with as few requests as a test has time for."""
    most = MOST_REQUESTS.get(words[0])
    if most is None or "--journal" in words:
        return words
    if "--requests" in words:
        at = words.index("--requests")
        words = [*words[:at], *words[at + 2 :]]
    return [words[0], *words[1:], "--requests", most]


@pytest.mark.parametrize("block", RUN, ids=ids)
def test_its_commands_run(
    block: Block, place: Path, fleet: MockFleet, capsys: pytest.CaptureFixture[str]
) -> None:
    lay_out(block.page, place, fleet)
    fleet.wait_until_well()
    for command in commands(block):
        here = [w.replace("127.0.0.1:8000", fleet.address) for w in command.verb or []]
        if here:
            status = main(cut(here))
            said = capsys.readouterr()
            expected = 1 if here[:2] == ["deployment", "diff"] else 0  # They differ.
            assert status == expected, f"{command.text}: {status}: {said.err or said.out}"
            assert said.out, f"{command.text}: says nothing"
        else:
            text = command.text.replace("127.0.0.1:8000", fleet.address)
            line = ["bash", "-euo", "pipefail", "-c", text]
            ended = subprocess.run(line, capture_output=True, text=True, check=False)
            assert ended.returncode == 0, f"{command.text}: {ended.stderr}"
