"""Real deployments, one model at a time, each shared by every test that needs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from string import Template

import msgspec
import pytest

from prfaas.core.layout import KvLayout
from prfaas.launch.addresses import free_address
from prfaas.launch.commands import installed_vllm
from prfaas.testing.line_relay import LineRelay
from prfaas.testing.running import PlainEngine, RunningDeployment, SecondGateway, call

HERE = Path(__file__).parent


class Stack(msgspec.Struct):
    """A deployment that offloads all it can, a gateway beside it that offloads nothing, and a
    stock engine to compare with."""

    kind: str
    running: RunningDeployment
    local: SecondGateway
    plain: PlainEngine
    line: LineRelay
    block_tokens: int
    """What hand-offs are aligned to."""

    @property
    def model(self) -> str | None:
        return self.running.deployment.model.served_name

    def gateway(self, route: str) -> str:
        return self.running.url if route == "offload" else self.local.url


class Stacks:
    """Starts a model's stack on demand; two cores and their memory hold only one at a time."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._open = ExitStack()
        self._current: Stack | None = None
        self._made = 0

    def get(self, kind: str) -> Stack:
        if self._current is None or self._current.kind != kind:
            self.close()
            self._current = self._start(kind)
        return self._current

    def _start(self, kind: str) -> Stack:
        self._made += 1
        home = self._home / f"{self._made}-{kind}"
        home.mkdir()
        west = free_address()
        line = self._open.enter_context(LineRelay(west))
        file = home / "offload.yaml"
        template = Template((HERE / "offload.yaml").read_text())
        file.write_text(template.substitute(west=west, line=line.address))
        # All start side by side: what each waits for leaves the cores to the others.
        running = self._open.push(RunningDeployment(file, home / "up", model=f"tiny:{kind}"))
        local = self._open.push(SecondGateway(running, home / "local", threshold="1M"))
        if installed_vllm() == "gpu":
            running.wait_until_ready()  # its first engine tunes the kernels for all
        # Beside the decode engine: what it computes anew our prefill engines compute meanwhile.
        plain = self._open.push(PlainEngine(running, home / "plain", cpus="1"))
        for part in (running, local, plain):
            part.wait_until_ready()
        return Stack(kind, running, local, plain, line, _block_tokens(running))

    def close(self) -> None:
        self._current = None
        self._open.close()


def _block_tokens(running: RunningDeployment) -> int:
    (rank, *_) = call(f"{running.admin('west')}/engines").json()["engines"]
    return msgspec.convert(rank["layout"], KvLayout).alignment_tokens


@pytest.fixture(scope="session")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stacks]:
    made = Stacks(tmp_path_factory.mktemp("stacks"))
    yield made
    made.close()


@pytest.fixture
def gdn(stacks: Stacks) -> Stack:
    """The default model's stack: a Gated DeltaNet hybrid."""
    return stacks.get("gdn")
