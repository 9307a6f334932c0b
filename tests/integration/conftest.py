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

from prfaas.core.layout import KvLayout
from prfaas.launch.addresses import free_address
from prfaas.testing.calling import call
from prfaas.testing.line_relay import LineRelay
from prfaas.testing.measuring import Speed, measure
from prfaas.testing.running import (
    PlainEngine,
    RunningDeployment,
    SecondGateway,
    compared,
    engine_args_here,
)

HERE = Path(__file__).parent
DEFAULT_KIND = "gdn"
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
    """What it took to start all of it."""
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
        args = engine_args_here(kind)
        file = _deployment(home, line, args)
        both = compared(file, home, model=f"tiny:{kind}", args=args)
        running, plain = self._open.enter_context(both)
        local = None
        if line is not None:
            second = SecondGateway(running, home / "local", threshold="1M")
            local = self._open.enter_context(second)
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
