"""Real deployments, one model at a time, each shared by every test that needs it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from string import Template

import msgspec
import pytest
import torch

from prfaas.core.layout import KvLayout
from prfaas.launch.addresses import free_address
from prfaas.launch.commands import installed_vllm
from prfaas.testing.calling import call
from prfaas.testing.line_relay import LineRelay
from prfaas.testing.measuring import Speed, measure
from prfaas.testing.running import PlainEngine, RunningDeployment, SecondGateway, engine_args_here

HERE = Path(__file__).parent
DEFAULT_KIND = "gdn"
FLOAT32 = ("--dtype", "float32")
FIGURES = pytest.StashKey[list[str]]()


class Stack(msgspec.Struct):
    """A deployment that offloads all it can, and a stock engine to compare with."""

    kind: str
    running: RunningDeployment
    plain: PlainEngine
    block_tokens: int
    """What hand-offs are aligned to."""
    speed: Speed
    start_s: float
    """What it took to start all of it, side by side."""
    local: SecondGateway | None = None
    """A gateway that offloads nothing."""
    line: LineRelay | None = None

    @property
    def model(self) -> str | None:
        return self.running.deployment.model.served_name

    @property
    def chunk_tokens(self) -> int:
        return self.running.deployment.model.max_num_batched_tokens

    def gateway(self, route: str) -> str:
        if route == "offload":
            return self.running.url
        assert self.local is not None
        return self.local.url


class Stacks:
    """Starts a model's stack on demand; two cores and their memory hold only one at a time.

    All routes, the line's relay, and the faults are tried with the default model, ``gdn``. Where
    another kind of KV cache is on trial, one engine on each side of the line tells all.
    """

    def __init__(self, home: Path, figures: list[str]) -> None:
        self._home, self.figures = home, figures
        self._open = ExitStack()
        self._current: Stack | None = None
        self._made = 0

    def get(self, kind: str) -> Stack:
        if self._current is None or self._current.kind != kind:
            self.close()
            self._current = stack = self._start(kind)
            self.figures.append(
                f"{kind}: started in {stack.start_s:.0f} s, "
                f"{stack.speed.tokens_per_s:,.0f} prompt tokens/s"
            )
        return self._current

    def _start(self, kind: str) -> Stack:
        self._made += 1
        home = self._home / f"{self._made}-{kind}"
        home.mkdir()
        began = time.monotonic()
        line = self._open.enter_context(LineRelay(free_address())) if kind == "gdn" else None
        # All start side by side: what each waits for leaves the cores to the others.
        args = engine_args_here(kind)
        if kind == "mla" and installed_vllm() == "cpu" and reference_mla():
            args = FLOAT32
        file = _deployment(home, line, args)
        running = self._open.push(RunningDeployment(file, home / "up", model=f"tiny:{kind}"))
        local = None
        if line is not None:
            local = self._open.push(SecondGateway(running, home / "local", threshold="1M"))
        if installed_vllm() == "gpu":
            running.wait_until_ready()  # its first engine tunes the kernels for all
        plain = self._open.push(PlainEngine(running, home / "plain", args=args))
        for part in (running, local, plain):
            if part is not None:
                part.wait_until_ready()
        start_s = time.monotonic() - began
        speed = measure(running.url, running.deployment.model.served_name)
        return Stack(
            kind, running, plain, _block_tokens(running), speed, start_s, local=local, line=line
        )

    def close(self) -> None:
        self._current = None
        self._open.close()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of one stack before the next, which takes a minute to start. Before them those with
    a deployment of their own: memory holds one at a time."""
    kinds = list(dict.fromkeys(map(_kind, items)))
    kinds.sort(key=lambda kind: kind != DEFAULT_KIND)
    items.sort(key=lambda item: kinds.index(_kind(item)))
    items.sort(key=lambda item: item.get_closest_marker("alone") is None)


def _kind(item: pytest.Item) -> str:
    """The model whose stack a test needs, as far as its parameters tell."""
    given = getattr(getattr(item, "callspec", None), "params", {})
    return given.get("kind") or given.get("stack") or DEFAULT_KIND


def reference_mla() -> bool:
    """Whether vLLM runs MLA with its reference kernels here: the CPU has no AMX."""
    return not torch.cpu._is_amx_tile_supported()


def _deployment(home: Path, line: LineRelay | None, args: Sequence[str]) -> Path:
    name = "pair.yaml" if line is None else "offload.yaml"
    ends = {} if line is None else {"west": line.target, "line": line.address}
    file = home / name
    template = Template((HERE / name).read_text())
    file.write_text(template.substitute(ends, args=json.dumps(args)))
    return file


def _block_tokens(running: RunningDeployment) -> int:
    (rank, *_) = call(f"{running.admin('west')}/engines").json()["engines"]
    return msgspec.convert(rank["layout"], KvLayout).alignment_tokens


@pytest.fixture(scope="session")
def stacks(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[Stacks]:
    figures = pytestconfig.stash.setdefault(FIGURES, [])
    made = Stacks(tmp_path_factory.mktemp("stacks"), figures)
    yield made
    made.close()


@pytest.fixture
def gdn(stacks: Stacks) -> Stack:
    """The default model's stack: a Gated DeltaNet hybrid."""
    return stacks.get(DEFAULT_KIND)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Lengths of prompts and bounds on answers follow from these."""
    for figure in config.stash.get(FIGURES, []):
        terminalreporter.write_line(f"measured on this machine: {figure}")
